"""What `freshet experiment` understands and says."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.studies import options_of, seeds_of
from online_learning.studies import registry
from online_learning.studies.study import Measurement, Point, Study, StudyError


class Made(Study):
    """One group, two settings, no data."""

    name = "made"
    title = "A made study"
    question = "Is two more than one?"
    baseline = "one"

    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        return [Point("numbers", setting, seed) for seed in seeds for setting in ("one", "two")]

    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        value = {"one": 1.0, "two": 2.0}[point.setting] + 0.1 * point.seed
        return [Measurement(point.group, point.setting, point.seed, "value", value)]


def test_a_study_is_run_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.STUDIES, "made", f"{__name__}:Made")
    arguments = ["experiment", "made", "--seeds", "0,1", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["freshet", *arguments])
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "Is two more than one?" in first.output
    assert "4 points measured, 0 kept" in " ".join(first.stderr.split())
    table = (tmp_path / "out" / "made.md").read_text()
    assert table in first.output
    assert "| numbers | two | 2 | 2.0500 ± 0.6353 | +1.0000 |" in table
    assert "- command: `freshet experiment made --seeds 0,1`" in table
    assert str(tmp_path) not in table
    second = CliRunner().invoke(app, arguments)
    assert "0 points measured, 4 kept" in " ".join(second.stderr.split())


def test_seeds_are_whole_numbers_each_once() -> None:
    assert seeds_of(None) == ()
    assert seeds_of("3,1,3") == (3, 1)
    with pytest.raises(StudyError, match="--seeds: '1,b' must be whole numbers"):
        seeds_of("1,b")


def test_an_unknown_study_is_told_those_that_there_are() -> None:
    result = CliRunner().invoke(app, ["experiment", "nothing"])
    assert result.exit_code == 1
    assert "'nothing' is unknown: must be one of" in result.stderr


def test_the_list_of_studies_comes_without_torch() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from infra.cli import app\n"
        "result = CliRunner().invoke(app, ['experiment', '--list']); print(result.output)\n"
        "sys.exit(result.exit_code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_studys_own_options_are_taken_by_name() -> None:
    assert options_of(["--eval-from", "2017-10-11", "--every=5"]) == {"eval_from": "2017-10-11", "every": "5"}
    for wrong, said in ((["2017"], "'2017' is no option"), (["--every"], "--every needs a value")):
        with pytest.raises(StudyError, match=said):
            options_of(wrong)


def test_an_option_that_a_study_does_not_have_is_told_those_that_it_has() -> None:
    result = CliRunner().invoke(app, ["experiment", "next-click", "--evry", "20"])
    assert result.exit_code == 1
    assert "has no option --evry, but --file" in result.stderr
