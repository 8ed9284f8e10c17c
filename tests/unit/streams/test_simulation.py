"""The simulated world: reproducible, learnable, and nothing that one list for all could win."""

import itertools
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.records import Event, Item, Metric, User
from streams.simulation.behaviour import choose_user, respond, wander
from streams.simulation.catalogue import Catalogue
from streams.simulation.loop import Answered, NoAnswer, Simulation, Traffic
from streams.simulation.tally import Snapshot, Tally, metrics
from streams.simulation.truth import STAY_SPREAD, Truth, examination
from streams.simulation.world import WORLD_VERSION, World, WorldSettings

SMALL = WorldSettings(users=12, items=20, arrivals_per_minute=60.0, changes_per_hour=600.0)


@pytest.mark.parametrize("seed", range(20))
def test_popularity_alone_reaches_at_most_60_percent_of_the_best_at_any_time(seed: int) -> None:
    world = World(seed)
    for hours in (0.0, 0.25, 1.0):
        world.advance(hours * 3600)
        truth = Truth(world, 10)
        assert truth.random_ctr() < truth.popularity_ctr() <= 0.6 * truth.best_ctr()
        assert 0.03 < truth.random_ctr() < 0.08
        assert truth.best_ctr() > 0.25


@given(seed=st.integers(0, 2**32), cuts=st.lists(st.floats(0, 30), max_size=5))
@settings(max_examples=25)
def test_a_seed_gives_the_same_world_bit_for_bit_however_often_it_is_asked_to_advance(
    seed: int, cuts: list[float]
) -> None:
    straight, in_steps = World(seed, SMALL), World(seed, SMALL)
    straight.advance(30.0)
    for to_s in sorted(cuts):
        in_steps.advance(to_s)
    in_steps.advance(30.0)
    assert in_steps.digest() == straight.digest()


def test_the_first_version_of_the_world_stays_as_it_is() -> None:
    world = World(7)
    before = world.digest()
    world.advance(600.0)
    assert world.digest() != before != World(8).digest()
    # A change here needs a new WORLD_VERSION: figures of other seeds would no longer mean the same world.
    assert WORLD_VERSION == 1
    assert world.favourites[:3].tolist() == [[4, 10], [6, 8], [11, 1]]
    assert world.category[:8].tolist() == [3, 10, 7, 4, 2, 5, 2, 11]
    assert world.items == range(46, 346)
    assert world.appeal[3, 5] == pytest.approx(-5.308083548387995)


@given(seed=st.integers(0, 1000), to_s=st.lists(st.floats(0, 120), min_size=1, max_size=4))
@settings(max_examples=25)
def test_every_item_arrives_once_and_retires_once(seed: int, to_s: list[float]) -> None:
    world = World(seed, SMALL)
    available = set(world.items)
    for at_s in sorted(to_s):
        moved = world.advance(at_s)
        assert set(moved.retired) <= available
        assert not set(moved.arrived) & available
        available = (available - set(moved.retired)) | set(moved.arrived)
        assert available >= set(world.items)
        # What came and went within one stretch was never there for anyone.
        assert set(world.items) == {item for item in available if item in world.items}


def test_tastes_drift_and_keep_their_spread() -> None:
    world = World(1)
    before = world.appeal.copy()
    world.advance(60.0)
    minute = np.abs(world.appeal[:, -200:] - before[:, -200:]).mean()
    world.advance(7200.0)
    assert 0 < minute < np.abs(world.appeal - before).mean()
    assert np.std(world.appeal) == pytest.approx(np.std(before), rel=0.2)


@given(seed=st.integers(0, 100), n=st.integers(1, 30), user=st.integers(0, 11))
@settings(max_examples=50)
def test_no_list_beats_the_best_list(seed: int, n: int, user: int) -> None:
    world = World(seed, SMALL)
    truth = Truth(world, n)
    some = np.random.default_rng(seed).permutation(np.array(world.items))[:n].tolist()
    # The world has 20 items, and no list is longer.
    assert truth.clicks(user, some).sum() / len(some) <= truth.best_of(user) + 1e-12
    assert truth.popularity_ctr() <= truth.best_ctr() + 1e-12


def test_attention_falls_with_the_position_and_what_is_gone_is_not_clicked() -> None:
    assert (np.diff(examination(10)) < 0).all()
    world = World(0, SMALL)
    gone = world.items[0]
    world.advance(60.0)
    truth = Truth(world, 3)
    assert gone not in world.items
    assert truth.clicks(0, [gone, None, world.items[0]])[:2].tolist() == [0.0, 0.0]


def test_clicks_come_as_often_as_the_truth_says() -> None:
    world = World(3)
    truth = Truth(world, 10)
    items = np.argsort(-truth.attraction[5])[:10] + world.items.start
    rng = np.random.default_rng(0)
    clicks: Counter[int] = Counter()
    for _ in range(4000):
        acts = respond(truth, 5, items.tolist(), rng)
        clicks.update(act.position for act in acts if act.kind == "click")
        assert {act.position for act in acts if act.kind == "like"} <= {
            act.position for act in acts if act.kind == "click"
        }
    expected = truth.clicks(5, items.tolist())
    # Five standard errors of a share of 4,000.
    assert np.array([clicks[k] for k in range(10)]) / 4000 == pytest.approx(expected, abs=0.04)


def test_organic_acts_name_no_position_and_begin_with_a_view() -> None:
    world = World(3)
    truth, rng = Truth(world, 10), np.random.default_rng(0)
    for _ in range(200):
        acts = wander(world, truth, 1, rng)
        assert [act.kind for act in acts] in (["view"], ["view", "click"])
        assert all(act.position == -1 and act.item in world.items for act in acts)


def test_who_comes_is_drawn_as_numpy_draws_by_weights() -> None:
    world = World(3)
    ours, numpys = np.random.default_rng(5), np.random.default_rng(5)
    drawn = [choose_user(world, ours) for _ in range(500)]
    assert drawn == [int(numpys.choice(world.settings.users, p=world.activity)) for _ in range(500)]


def test_who_clicked_tells_how_long_they_stayed_and_the_truth_knows_it() -> None:
    world = World(3)
    truth = Truth(world, 10)
    items = np.argsort(-truth.attraction[5])[:10] + world.items.start
    rng, stays = np.random.default_rng(0), []
    for _ in range(1000):
        acts = respond(truth, 5, items.tolist(), rng, dwell=True)
        clicked = [act.position for act in acts if act.kind == "click"]
        dwells = [act for act in acts if act.kind == "dwell"]
        assert [act.position for act in dwells] == clicked
        stays += [np.log(act.value / truth.median_stay_s(5, act.item)) for act in dwells if act.value is not None]
    # Five standard errors of a mean.
    assert abs(np.mean(stays)) < 5 * STAY_SPREAD / np.sqrt(len(stays))
    assert np.std(stays) == pytest.approx(STAY_SPREAD, rel=0.1)


def test_worlds_of_two_seeds_share_no_id() -> None:
    one, eleven = Catalogue(1, "a"), Catalogue(11, "b")
    assert one.item_number(one.item_id(17)) == 17
    assert one.item_number(eleven.item_id(7)) is None
    assert one.item_number("something else") is None
    names = [{user.user for user in c.users(World(c.seed), 0)} for c in (one, eleven)]
    assert not names[0] & names[1]


class Closed:
    """A loop whose answers rank by the truth for even users and by chance for odd ones."""

    def __init__(self, seconds: float) -> None:
        self.world = World(5)
        self.sent: list[tuple[str, Any]] = []
        self.asked = itertools.count()
        traffic = Traffic(rate=200.0, seconds=seconds, threads=3, organic=20.0, think_s=0.05)
        self.truth = Truth(self.world, 10)
        self.simulation = Simulation(self.world, "s", traffic, self.answer, self.send)

    def send(self, topic: Any, record: Any, key: str | None) -> None:
        self.sent.append((topic.name, record))

    def answer(self, user: str, n: int, context: dict[str, Any]) -> Answered:
        assert context == {"scene": "s"}
        k = next(self.asked)
        if k % 10 == 0:
            raise NoAnswer
        number = int(user.removeprefix("w5-u"))
        best = np.argsort(-self.truth.attraction[number])[:n] + self.truth.items.start
        any_ = np.random.default_rng(k).choice(np.array(self.truth.items), n, replace=False)
        arm, items = ("best", best) if number % 2 == 0 else ("random", any_)
        return Answered([f"w5-i{item}" for item in items], f"r{k}", arm)

    def of(self, topic: str) -> list[Any]:
        return [record for name, record in self.sent if name == topic]


def test_the_closed_loop_sends_what_users_do_and_knows_the_regret() -> None:
    closed = Closed(seconds=1.5)
    assert closed.simulation.publish_catalogue() == 700
    snapshot = closed.simulation.run(threading.Event())
    best, chance = snapshot.arms["best"], snapshot.arms["random"]
    assert best.requests + chance.requests + snapshot.failed == 300
    assert snapshot.failed == 30
    assert best.regret == pytest.approx(0.0, abs=0.02)
    assert chance.regret > 0.2
    events: list[Event] = closed.of("events")
    assert sum(e.kind == "click" and e.request_id is not None for e in events) == best.clicks + chance.clicks
    assert sum(e.kind == "view" for e in events) == snapshot.organic > 0
    assert all(isinstance(user, User) and user.attributes["segment"] for user in closed.of("users"))
    assert all(isinstance(item, Item) and item.scene == "s" for item in closed.of("items"))
    published: list[Metric] = closed.of("metrics")
    assert {m.labels["arm"] for m in published if m.name == "simulation_regret"} == {"best", "random"}


def test_a_stopped_loop_ends_and_still_sends_what_was_decided() -> None:
    closed = Closed(seconds=600.0)
    stop = threading.Event()
    snapshot = closed.simulation.run(stop, lambda now: stop.set() if now.total.clicks else None)
    clicks = [e for e in closed.of("events") if e.kind == "click" and e.request_id is not None]
    assert 0 < len(clicks) == snapshot.total.clicks


def test_metrics_speak_of_the_stretch_between_two_snapshots() -> None:
    first = Tally(requests=1, shown=10, clicks=1, expected=1.0, best=4.0, popularity=2.0)
    then = first + Tally(requests=1, shown=10, clicks=5, expected=3.0, best=4.0, popularity=2.0)
    before = Snapshot(1.0, {"a": first, "b": first}, 0, 0, 0)
    after = Snapshot(2.0, {"a": then, "b": first}, 0, 0, 0)
    found = {m.name: m.value for m in metrics(before, after, 3, "s", 0)}
    assert found["simulation_ctr"] == 0.5
    assert found["simulation_regret"] == pytest.approx(0.1)
    assert {m.labels["arm"] for m in metrics(before, after, 3, "s", 0)} == {"a"}
