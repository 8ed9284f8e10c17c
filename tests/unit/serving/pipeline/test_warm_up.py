"""Warming up runs the whole online path and leaves nothing behind."""

import tempfile
from pathlib import Path
from typing import get_args

import pytest

from online_learning.settings import LearningSettings, ModelName, ModelSettings
from serving.pipeline.warm_up import warm_up
from serving.settings import ServingSettings
from streams.settings import StreamsSettings


@pytest.mark.parametrize("model", get_args(ModelName))
def test_warming_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelName) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    warm_up(ServingSettings(learning=LearningSettings(tasks=StreamsSettings().tasks, model=ModelSettings(name=model))))
    assert list(tmp_path.iterdir()) == []
