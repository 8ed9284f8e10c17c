"""What the command line refuses before it does harm."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app


@pytest.mark.parametrize("state", [".", ".."])
def test_a_state_folder_that_holds_other_things_is_not_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "freshet.toml").write_text(f"state_dir = {state!r}\n")
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["down", "--erase"])
    assert done.exit_code == 1
    assert "it is not erased" in done.stderr
    assert (project / "freshet.toml").exists()


def test_a_state_folder_of_its_own_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".freshet" / "logs").mkdir(parents=True)
    assert CliRunner().invoke(app, ["down", "--erase"]).exit_code == 0
    assert not (tmp_path / ".freshet").exists()
