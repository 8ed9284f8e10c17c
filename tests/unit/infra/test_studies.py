"""What `freshet experiment` understands and says."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from infra.cli import app
from infra.studies import options_of, seeds_of
from online_learning.studies.study import StudyError


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
