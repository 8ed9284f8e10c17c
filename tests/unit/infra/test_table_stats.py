"""`freshet table stats` says what the tables of a checkpoint hold and cost."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.table import location
from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.checkpoint.store import CheckpointStore
from online_learning.models.fields import FieldEncoder
from online_learning.models.scorers.two_tower import tower_space
from online_learning.settings import ModelSettings
from online_learning.table.keys import collision_bound
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder whose checkpoint holds 3,000 users, 800 items and 200 of them as a tower sees them."""
    spaces = {name: space for space, name in FieldEncoder(ModelSettings()).space_names().items()}
    table = Table(TableSettings(dim=17))
    for space, keys in (
        (spaces["user"], np.arange(1, 3001)),
        (spaces["item"], np.arange(5001, 5801)),
        (tower_space(spaces["item"]), np.arange(6001, 6201)),
    ):
        table.find_or_insert(keys.astype(np.uint64), np.full(len(keys), space, np.uint16), 0, 1)
    table.remove(np.array([1], np.uint64), 0, 2)
    CheckpointStore(tmp_path / "checkpoints").save(
        Checkpoint(tables={"sparse": table.snapshot()}, dense={}, offsets={})
    )
    return tmp_path


def test_rows_of_each_field_bytes_and_the_birthday_bound_are_said(state: Path) -> None:
    done = CliRunner().invoke(app, ["table", "stats", str(state)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    said = {left.strip(): right.strip() for left, right in _rows(done.output)}
    assert said["rows"] == "3,999"
    assert said["of field user"] == "2,999"
    assert said["of field item"] == "800"
    assert said["of field item, its tower's"] == "200"
    assert said["tombstones"] == "1"
    assert float(said["the same with the index at its highest load"]) < 48
    assert said["chance that any two keys share their 64-bit hash, at most"] == f"{collision_bound(3999):.1e}"


def test_the_same_comes_as_json_from_the_folder_of_checkpoints_itself(state: Path) -> None:
    done = CliRunner().invoke(app, ["table", "stats", str(state / "checkpoints"), "--json"])
    assert done.exit_code == 0, done.output
    (table,) = json.loads(done.stdout)
    assert (table["name"], table["rows"], table["tombstones"]) == ("sparse", 3999, 1)
    assert sum(table["rows_by_space"].values()) == 3999


def test_where_there_is_no_checkpoint_it_says_so_and_makes_no_folder(tmp_path: Path) -> None:
    missing = tmp_path / "nothing"
    done = CliRunner().invoke(app, ["table", "stats", str(missing)])
    assert done.exit_code == 1
    assert "no such folder" in done.stderr
    assert not missing.exists()
    (tmp_path / "checkpoints").mkdir()
    done = CliRunner().invoke(app, ["table", "stats", str(tmp_path)])
    assert done.exit_code == 1
    assert "there are no checkpoints" in done.stderr


def test_a_url_is_taken_as_it_is(state: Path) -> None:
    from infra.settings import Settings

    assert location("memory://somewhere", Settings()) == "memory://somewhere"
    assert location(str(state), Settings()) == str(state / "checkpoints")


def _rows(text: str) -> list[tuple[str, str]]:
    cells = [line.strip("│").split("│") for line in text.splitlines() if line.startswith("│")]
    return [(left, right) for left, right in cells]
