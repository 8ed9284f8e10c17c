"""What a study's run promises: nothing is measured twice, and what a kill cut short is measured again."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from online_learning.studies.runner import Outcome, run
from online_learning.studies.study import Measurement, Point, Study, StudyError


class Killed(Exception):
    """Stands for the end of the process."""


class Line(Study):
    """Two groups, three settings: the value follows from the point alone."""

    name = "line"
    title = "A line"
    question = "Does a line rise?"
    seeds = (0, 1, 2)
    baseline = "none"
    metrics = ("AUC",)
    notes = ("made data",)

    def __init__(self, dies_at: int = 1 << 30, size: str = "10") -> None:
        self.measured: list[Point] = []
        self._dies_at, self._size = dies_at, size

    def sizes(self, quick: bool) -> dict[str, str]:
        return {"rows": self._size}

    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        settings = ("none",) if quick else ("none", "some", "more")
        return [Point(group, setting, seed) for seed in seeds for group in ("a", "b") for setting in settings]

    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        if len(self.measured) == self._dies_at:
            raise Killed
        self.measured.append(point)
        rises = {"none": 0.0, "some": 0.1, "more": 0.2}[point.setting]
        value = 0.5 + rises + 0.01 * point.seed * (1 + rises)
        return [
            Measurement(point.group, point.setting, point.seed, "AUC", value, x=10 * rises),
            Measurement(point.group, point.setting, point.seed, "unseen", 1.0),
        ]


def ran(study: Study, folder: Path, **options: object) -> Outcome:
    return run(study, folder, folder / "out", about={"machine": "made"}, **options)  # type: ignore[arg-type]


def test_what_is_done_is_not_measured_again_after_a_kill(tmp_path: Path) -> None:
    dies = Line(dies_at=5)
    with pytest.raises(Killed):
        ran(dies, tmp_path)
    lives = Line()
    outcome = ran(lives, tmp_path)
    assert (outcome.measured, outcome.kept) == (13, 5)
    assert not set(lives.measured) & set(dies.measured)
    assert len(set(lives.measured) | set(dies.measured)) == 18
    whole = Line()
    assert ran(whole, tmp_path / "other").table.read_text() == outcome.table.read_text()
    assert ran(Line(), tmp_path).measured == 0


def test_a_line_that_a_kill_cut_short_is_measured_again(tmp_path: Path) -> None:
    log = ran(Line(), tmp_path).log
    content = log.read_bytes()
    log.write_bytes(content[:-10])
    again = Line()
    assert ran(again, tmp_path).measured == 1
    assert again.measured == [Point("b", "more", 2)]
    assert log.read_bytes().count(b"\n") == 18


def test_fresh_starts_over(tmp_path: Path) -> None:
    ran(Line(), tmp_path)
    assert ran(Line(), tmp_path, fresh=True).measured == 18


def test_points_of_other_sizes_do_not_go_into_one_table(tmp_path: Path) -> None:
    ran(Line(), tmp_path)
    with pytest.raises(StudyError, match=r"line\.jsonl:1 was measured with rows 10, not rows 20: start over"):
        ran(Line(size="20"), tmp_path)
    with pytest.raises(StudyError, match="not rows 10, quick yes"):
        ran(Line(), tmp_path, quick=True)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    log = ran(Line(), tmp_path).log
    log.write_bytes(b"{}\n" + log.read_bytes())
    with pytest.raises(StudyError, match=r"line\.jsonl:1: .*point"):
        ran(Line(), tmp_path)


@pytest.mark.parametrize(
    ("only", "count"), [(("a",), 9), (("a/none",), 3), (("more",), 6), (("*/so*", "b/none"), 9), ((), 18)]
)
def test_patterns_name_the_points_to_be_measured(tmp_path: Path, only: tuple[str, ...], count: int) -> None:
    assert ran(Line(), tmp_path, only=only).measured == count


def test_a_pattern_that_names_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no point of `line` is named by c/none"):
        ran(Line(), tmp_path, only=("c/none",))


def test_missing_data_is_named_with_the_way_to_name_it(tmp_path: Path) -> None:
    class Needs(Line):
        needs = ("ml-100k",)

    with pytest.raises(StudyError, match=r"needs the data set `ml-100k`.* --data or FRESHET_DATA"):
        ran(Needs(), tmp_path)


def test_a_measurement_must_be_of_its_point(tmp_path: Path) -> None:
    class Wrong(Line):
        def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
            return [Measurement("a", "none", 7, "AUC", 0.5)]

    with pytest.raises(ValueError, match="measured"):
        ran(Wrong(), tmp_path)


def test_the_table_has_intervals_paired_differences_and_all_that_was_asked(tmp_path: Path) -> None:
    outcome = ran(Line(), tmp_path)
    table = outcome.table.read_text()
    # At `some` the values are .6, .611, .622; t(.975, 2) = 4.3027: half = 4.3027 * .011 / sqrt(3).
    assert "| a | some | 3 | 0.6110 ± 0.0273 | +0.1010 ± 0.0025 |" in table
    assert "| b | none | 3 | 0.5100 ± 0.0248 |  |" in table
    assert "unseen" not in table
    assert "Does a line rise?" in table
    for told in ("- made data", "- seeds: 0, 1, 2", "- machine: made", "- sizes: rows 10", "- time spent: 0 s"):
        assert told in table
    assert outcome.picture.read_bytes().startswith(b"\x89PNG")
