"""What the command line refuses before it does harm."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.local.state import State


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


@pytest.mark.parametrize("command", [["down", "--erase"], ["demo"]])
def test_a_folder_that_no_stack_made_is_not_erased(tmp_path: Path, command: list[str]) -> None:
    thesis = tmp_path / "documents" / "thesis"
    thesis.mkdir(parents=True)
    done = CliRunner().invoke(app, [*command, "--state", str(thesis.parent)])
    assert done.exit_code == 1
    assert "holds what no stack wrote: it is not erased" in done.stderr
    assert thesis.is_dir()


def test_a_state_folder_of_its_own_is_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    State(tmp_path / ".freshet").create()
    assert CliRunner().invoke(app, ["down", "--erase"]).exit_code == 0
    assert not (tmp_path / ".freshet").exists()
