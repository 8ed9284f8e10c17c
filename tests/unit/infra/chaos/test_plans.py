"""What a campaign will do is known beforehand, and leaves nobody out."""

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.chaos import kills, points
from infra.chaos.plan import CONFIG, PARTS, Plan, quick
from infra.cli import app
from infra.settings import parse
from streams.failpoints import CATALOGUE, Kind


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_kills_as_many_as_was_asked_and_is_the_seed_s_alone(seed: int) -> None:
    for count in (1, 7, 200):
        found = kills.schedule(count, seed)
        assert sum(len(kill.victims) for kill in found) == count
        assert found == kills.schedule(count, seed)
    assert kills.schedule(50, seed) != kills.schedule(50, seed + 1)


@pytest.mark.parametrize("seed", range(5))
def test_every_process_dies_alone_and_every_two_die_together(seed: int) -> None:
    victims = Counter(kill.victims for kill in kills.schedule(200, seed))
    names = ("trainer", "replica", "worker", "kafka")
    assert {one for one in victims if len(one) == 1} == {(name,) for name in names}
    assert {frozenset(one) for one in victims if len(one) == 2} == {
        frozenset(pair) for pair in itertools.combinations(names, 2)
    }


def test_some_kills_come_before_the_last_one_is_over() -> None:
    found = kills.schedule(200, 0)
    assert 5 < sum(kill.again for kill in found) < 60


@pytest.mark.parametrize("seed", range(5))
def test_the_shortest_form_has_every_process_at_every_kind_of_step_that_it_takes(seed: int) -> None:
    chosen = points.chosen(random.Random(seed))
    there = {(name.split(".")[0], CATALOGUE[name].kind) for name in CATALOGUE if not name.startswith("features.")}
    assert {(name.split(".")[0], CATALOGUE[name].kind) for name in chosen} == there
    assert {place.kind for place in CATALOGUE.values()} == set(Kind)


def test_every_place_is_struck_as_often_as_was_asked() -> None:
    lives = points.orders(list(CATALOGUE), 5, 3)
    for process, arms in lives.items():
        assert Counter(arm.name for arm in arms) == dict.fromkeys(
            (name for name in CATALOGUE if name.startswith(f"{process}.")), 5
        )
    assert sum(map(len, lives.values())) == 5 * len(CATALOGUE)


def test_a_place_that_struck_less_often_than_was_asked_is_a_failure() -> None:
    assert points.struck({"a": 5, "b": 6}, ["a", "b"], 5).ok
    found = points.struck({"a": 5, "b": 4}, ["a", "b", "c"], 5)
    assert found.wrong == "b 4, c 0"


def test_the_campaign_s_settings_are_settings(tmp_path) -> None:  # type: ignore[no-untyped-def]
    settings = parse(CONFIG.format(checkpoints=tmp_path / "kept"), "chaos", tmp_path)
    assert settings.learning.trainer.checkpoint_dir == str(tmp_path / "kept")
    assert quick(0).parts == PARTS


def test_feast_takes_part_where_its_places_are_struck() -> None:
    assert Plan().feast
    assert Plan(points=("worker.fenced", "features.pushed")).feast
    assert not Plan(points=("worker.fenced",)).feast
    assert not Plan(parts=("kills",)).feast
    assert not quick(0).feast
    assert quick(0, ("features.pushed",)).feast


# --- the failpoints that are named


def test_beginnings_of_names_choose_failpoints() -> None:
    found = points.named("sink.end, trainer.dense-sent")
    assert set(found) == {"sink.end-committing", "sink.end-committed", "trainer.dense-sent"}


@pytest.mark.parametrize("quickly", [False, True])
def test_only_the_failpoints_that_are_named_are_struck(quickly: bool) -> None:
    names = points.named("sink.")
    plan = quick(0, names) if quickly else Plan(points=names)
    assert points.places(plan) == [name for name in CATALOGUE if name.startswith("sink.")]
    assert points.places(Plan()) == list(CATALOGUE)
    assert points.places(quick(3)) == points.chosen(random.Random(3))


def test_the_shortest_form_has_the_crowd_that_a_named_failpoint_needs() -> None:
    assert quick(0, ("replica.table-grown",)).crowd == Plan().crowd
    assert quick(0).crowd == quick(0, ("trainer.learned",)).crowd == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--points", "tariner."], "'tariner.': must begin as one of trainer., replica., worker., sink., features."),
        (["--points", "sink.ends"], "'sink.ends': must begin as one of sink.resumed, sink.intent-committing"),
        (["--points", "sink.,"], "no failpoint begins with ''"),
        (["--quick", "--points", ""], "no failpoint begins with ''"),
        (["--points", "sink.", "--only", "kills"], "--only kills leaves them out"),
        (["--only", ""], "--only: '' is unknown"),
    ],
)
def test_what_names_nothing_stops_the_start(tmp_path: Path, options: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["chaos", *options, "--keep", str(tmp_path / "chaos")])
    assert done.exit_code == 1
    assert said in done.stderr
    assert not (tmp_path / "chaos").exists()
