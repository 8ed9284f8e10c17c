"""The study of collisions on made data: what it measures, and that lost ids cost where ids are all there is to know."""

from pathlib import Path

import numpy as np
import pytest

from online_learning.studies.collisions import FREE, LOSSES, Collisions, measure_rows
from online_learning.studies.datasets.labelled import Labelled
from online_learning.studies.registry import find
from online_learning.studies.runner import run
from online_learning.studies.study import Measurement, Point

ID_FIELDS = {"user": ("user",), "item": ("item",)}


def made(rows: int = 12_000, ids: int = 300) -> Labelled:
    """Labels that depend on the user and the item alone."""
    random = np.random.default_rng(3)
    user, item = random.integers(0, ids, rows), random.integers(0, ids, rows)
    likes = random.normal(0, 2, (2, ids))
    p = 1 / (1 + np.exp(-likes[0][user] - likes[1][item]))
    return Labelled({"user": user, "item": item, "hour": np.arange(rows) % 24}, random.random(rows) < p)


def measured(setting: str, seed: int = 0) -> dict[str, Measurement]:
    return {one.metric: one for one in measure_rows(Point("made", setting, seed), made(), ID_FIELDS)}


def test_every_id_has_its_row_without_collisions_and_the_fewer_the_more_are_lost() -> None:
    free = measured(FREE)
    assert free["ids lost, %"].value == 0
    assert free["rows"].value == 300 + 300 + 24
    for setting, share in LOSSES.items():
        found = measured(setting)
        assert found["ids lost, %"].value == pytest.approx(100 * share, abs=4)
        assert found["rows"].value == pytest.approx(24 + 600 * (1 - found["ids lost, %"].value / 100))
        assert found["AUC"].x == 100 * share


def test_lost_ids_cost_where_ids_are_all_there_is_to_know() -> None:
    free, half = measured(FREE), measured("50% lost")
    assert free["AUC"].value > half["AUC"].value + 0.02
    assert free["log loss"].value < half["log loss"].value


def test_a_point_is_the_same_whenever_it_is_measured() -> None:
    assert measured("25% lost", seed=4) == measured("25% lost", seed=4)


def test_the_page_says_which_differences_cannot_be_told_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = find("collisions")
    assert isinstance(study, Collisions)
    monkeypatch.setattr(Collisions, "needs", ())

    def measure(point: Point, data: Path, quick: bool) -> list[Measurement]:
        cost = {"25% lost": 0.01, "50% lost": 0.03}.get(point.setting, 0.0)
        value = 0.8 - cost + 0.001 * np.random.default_rng([point.seed, len(point.setting)]).normal()
        return [Measurement(point.group, point.setting, point.seed, "AUC", value, x=LOSSES.get(point.setting, 0.0))]

    monkeypatch.setattr(study, "measure", measure)
    table = run(study, tmp_path, tmp_path, about={}, only=("ml-100k",)).table.read_text()
    start = "- ml-100k: AUC against collision-free, "
    line = next(line for line in table.splitlines() if line.startswith(start))
    told = dict(part.strip().split(": ", 1) for part in line.removeprefix(start).split(";"))
    assert "no difference" in told["2.9% lost"]
    assert "no difference" not in told["25% lost"]
    assert told["50% lost"].startswith("-.0")


@pytest.mark.data
def test_a_quick_run_goes_over_the_real_data(data: Path, tmp_path: Path) -> None:
    outcome = run(
        find("collisions"), data, tmp_path, about={}, quick=True, seeds=(0,), only=("collision-free", "50% lost")
    )
    assert outcome.summary.groups == ["ml-100k", "frappe", "globo"]
    for group in outcome.summary.groups:
        interval = outcome.summary.interval(group, "50% lost", "ids lost, %")
        assert interval is not None
        assert interval.mean == pytest.approx(50, abs=6)
