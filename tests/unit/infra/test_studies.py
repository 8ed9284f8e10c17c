"""What `freshet experiment` understands and says."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
    assert result.exit_code == 2
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
    assert result.exit_code == 2
    assert "has no option --evry, but --file" in result.stderr


# --- what somebody gives that cannot be


def refused(*arguments: str) -> str:
    """What `freshet experiment` says in one line when it stops with exit code 2."""
    result = CliRunner().invoke(app, ["experiment", *arguments])
    assert result.exit_code == 2, result.output
    said = result.stderr.strip()
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("name", "folders", "said"),
    [
        ("collisions", ("ml-100k", "frappe_x1", "globo"), "ml-100k: no file"),
        ("frappe", ("frappe_x1",), "train.parquet: No such file"),
        ("ml-1m", ("ml-1m_ncf",), "train.parquet: No such file"),
    ],
)
def test_a_folder_of_data_that_is_empty_is_told(tmp_path: Path, name: str, folders: tuple[str, ...], said: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    assert said in refused(name, "--quick", "--data", str(tmp_path), "--out", str(tmp_path / "out"))


def test_a_file_that_is_no_log_of_clicks_is_told(tmp_path: Path) -> None:
    def file(name: str, **columns: list[object]) -> list[str]:
        pq.write_table(pa.table(columns), tmp_path / name)
        return ["next-click", "--quick", "--file", str(tmp_path / name), "--out", str(tmp_path / "out")]

    clicks: dict[str, list[object]] = {"user_id": [1], "session_id": [1], "article_id": [1], "ts_ms": [1]}
    text = tmp_path / "clicks.csv"
    text.write_text("user_id,session_id\n1,1\n")
    assert f"{text} is no parquet file" in refused("next-click", "--file", str(text), "--out", str(tmp_path / "out"))
    other = refused(*file("other", user_id=[1], when=[2.0]))
    assert "other has no column session_id, article_id, ts_ms, but user_id, when" in other
    assert "`user_id` is string, must be whole numbers" in refused(*file("names", **{**clicks, "user_id": ["anna"]}))
    assert "`ts_ms` is int64 with 1 of 1 missing" in refused(
        *file("gaps", **{**clicks, "ts_ms": pa.array([None], pa.int64())})
    )
    none = {name: pa.array([], pa.int64()) for name in clicks}
    assert "nothing to rank" in refused(*file("none", **none))


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unmeasured(Made):
        def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
            raise AssertionError("measured")

    monkeypatch.setattr(registry, "find", lambda name: Unmeasured())
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    assert f"{out / 'made.jsonl'} cannot be written: Not a directory" in refused("made", "--out", str(out))
