"""Drift: an error that goes up raises one alarm, one that stays or goes down none, and a restart changes nothing."""

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from online_learning.reporting import drift_text
from online_learning.watching.alarms import Alarm, WatchState
from online_learning.watching.drift import MAX_SCENES, QUIET_EXAMPLES, SCENE_UNSEEN_EXAMPLES, Drift

BATCH = 64
# Within so many examples an error that is half as large again is noticed, at a rate of 10% (measured: 850 at most).
NOTICED = 1_500


def stream(seed: int, n: int, rate: float = 0.1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predictions f32 [n, 1, 1] around `rate`, and labels f32 [n, 1] drawn by them."""
    random = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-(np.log(rate / (1 - rate)) + random.normal(0, 0.7, n))))
    return p.astype(np.float32)[:, None, None], (random.random(n) < p).astype(np.float32)[:, None]


def watch(drift: Drift, said: NDArray[np.float32], labels: NDArray[np.float32], first: int = 0) -> list[Alarm]:
    """The alarms, dated by the examples seen before and within their batch."""
    for start in range(0, len(said), BATCH):
        drift.add(said[start : start + BATCH], labels[start : start + BATCH], first + min(start + BATCH, len(said)))
    return drift.take_begun()


def one() -> Drift:
    return Drift(["online"], ["click"])


@pytest.mark.parametrize("seed", range(5))
def test_an_error_that_goes_up_raises_one_alarm_soon_and_it_ends_when_nothing_follows(seed: int):
    drift = one()
    said, labels = stream(seed, 10_000)
    assert watch(drift, said, labels) == []
    # The world answers more than twice as often as the learner believes, and goes on so.
    _, labels = stream(seed + 100, 14_000, rate=0.25)
    said = np.full((14_000, 1, 1), 0.1, dtype=np.float32)
    (alarm,) = watch(drift, said[:4_000], labels[:4_000], 10_000)
    assert 10_000 < alarm.at_ms <= 10_000 + NOTICED
    assert (alarm.learner, alarm.task) == ("online", "click")
    assert alarm.after > alarm.before
    assert drift.standing() == [alarm]
    assert drift.last_ms("online", "click") == alarm.at_ms
    assert len(said) >= NOTICED + QUIET_EXAMPLES
    assert watch(drift, said[4_000:], labels[4_000:], 14_000) == []
    assert drift.standing() == []
    assert drift.last_ms("online", "click") == alarm.at_ms


def test_an_error_that_stays_raises_no_alarm():
    """20 streams of 10,000; the measured rate is below one in 800,000 examples."""
    assert [alarm for seed in range(20) for alarm in watch(one(), *stream(seed, 10_000))] == []


def test_learning_raises_no_alarm_and_ends_one():
    drift = one()
    said, labels = stream(0, 5_000, rate=0.3)
    poor = np.full_like(said, 0.9)
    assert watch(drift, said, labels) == []
    (alarm,) = watch(drift, poor[:1_000], labels[:1_000])
    assert drift.standing() == [alarm]
    assert watch(drift, said, labels) == []
    assert drift.standing() == []


def test_each_learner_and_task_has_its_own_alarm_and_unknown_labels_count_nowhere():
    drift = Drift(["online", "river"], ["click", "rating"])
    said, labels = stream(3, 6_000)
    both = np.repeat(np.repeat(said, 2, axis=1), 2, axis=2)
    both[3_000:, 1, 0] = 0.9
    known = np.concatenate([labels, np.full_like(labels, np.nan)], axis=1)
    (alarm,) = watch(drift, both, known)
    assert (alarm.learner, alarm.task) == ("river", "click")


@pytest.mark.parametrize("cut", [1, 5_000, 10_300, 10_800, 11_500])
def test_a_restored_watch_goes_on_as_if_nothing_had_been(cut: int):
    said, labels = stream(1, 14_000)
    said[10_000:] = 0.8
    whole, first, second = one(), one(), one()
    expected = watch(whole, said, labels)
    assert len(expected) == 1
    found = []
    for start in range(0, len(said), BATCH):
        drift = first if start < cut else second
        if drift is second and start - BATCH < cut:
            kept = msgspec.msgpack.encode(first.state())
            assert kept == msgspec.msgpack.encode(first.state())
            second.restore(msgspec.msgpack.decode(kept, type=list[WatchState]))
        drift.add(said[start : start + BATCH], labels[start : start + BATCH], min(start + BATCH, len(said)))
        found += drift.take_begun()
    assert found == expected
    assert second.standing() == whole.standing()
    assert msgspec.msgpack.encode(second.state()) == msgspec.msgpack.encode(whole.state())


# --- by scene


def by_scene(
    seed: int, n: int, scenes: int, drifts_at: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """A stream of which every scene takes turns; from `drifts_at` on the labels of scene "s0" are turned round."""
    said, labels = stream(seed, n)
    names = [f"s{number}" for number in np.random.default_rng(seed).integers(0, scenes, n)]
    turned = (np.arange(n) >= drifts_at) & (np.array(names) == "s0")
    labels[turned] = 1 - labels[turned]
    return said, labels, names


def watch_scenes(drift: Drift, said: NDArray[np.float32], labels: NDArray[np.float32], names: list[str]) -> list[Alarm]:
    for start in range(0, len(said), BATCH):
        part = slice(start, start + BATCH)
        drift.add(said[part], labels[part], min(start + BATCH, len(said)), names[part])
    return drift.take_begun()


@pytest.mark.parametrize("seed", range(3))
def test_what_goes_wrong_in_one_of_many_scenes_is_said_of_that_scene_soon(seed: int):
    drift = one()
    found = watch_scenes(drift, *by_scene(seed, 30_000, 10, drifts_at=20_000))
    of_scenes = [alarm for alarm in found if alarm.scene is not None]
    assert [alarm.scene for alarm in of_scenes] == ["s0"]
    # A tenth of the examples are of the scene: some 150 of its own.
    assert 20_000 < of_scenes[0].at_ms <= 20_000 + NOTICED
    assert of_scenes[0] in drift.standing()
    assert drift.last_ms("online", "click") >= of_scenes[0].at_ms


def test_scenes_that_stay_as_they_are_raise_no_alarm():
    """10 streams of 20,000 in 20 scenes."""
    never = 1 << 40
    assert [alarm for seed in range(10) for alarm in watch_scenes(one(), *by_scene(seed, 20_000, 20, never))] == []


def test_scenes_watched_are_bounded_and_one_long_unseen_makes_room():
    drift = one()
    said, labels = stream(0, 4 * MAX_SCENES)
    watch_scenes(drift, said, labels, [f"s{number % (2 * MAX_SCENES)}" for number in range(len(said))])
    watched = {state.scene for state in drift.state()} - {None}
    assert watched == {f"s{number}" for number in range(MAX_SCENES)}
    said, labels = stream(1, SCENE_UNSEEN_EXAMPLES + BATCH)
    watch_scenes(drift, said, labels, ["s1"] * len(said))
    watch_scenes(drift, said[:BATCH], labels[:BATCH], ["new"] * BATCH)
    assert {state.scene for state in drift.state()} - {None} == watched - {"s0"} | {"new"}


def test_the_alarm_of_a_scene_ends_some_time_after_the_scene():
    drift = one()
    said, labels, names = by_scene(0, 22_000, 10, drifts_at=20_000)
    watch_scenes(drift, said, labels, names)
    assert "s0" in [alarm.scene for alarm in drift.standing()]
    said, labels = stream(1, SCENE_UNSEEN_EXAMPLES + BATCH)
    almost = SCENE_UNSEEN_EXAMPLES - BATCH
    watch_scenes(drift, said[:almost], labels[:almost], ["s1"] * almost)
    assert "s0" in [alarm.scene for alarm in drift.standing()]
    # No more of the scene comes: its page is gone.
    watch_scenes(drift, said[almost:], labels[almost:], ["s1"] * (len(said) - almost))
    assert drift.standing() == []


def test_a_restored_watch_of_scenes_goes_on_too():
    said, labels, names = by_scene(2, 30_000, 10, drifts_at=20_000)
    whole, first, second = one(), one(), one()
    expected = watch_scenes(whole, said, labels, names)
    cut = 20_032
    found = watch_scenes(first, said[:cut], labels[:cut], names[:cut])
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=list[WatchState]))
    for start in range(cut, len(said), BATCH):
        part = slice(start, start + BATCH)
        second.add(said[part], labels[part], min(start + BATCH, len(said)), names[part])
    assert [(one.scene, one.before, one.after) for one in found + second.take_begun()] == [
        (one.scene, one.before, one.after) for one in expected
    ]


@pytest.mark.parametrize("seed", range(3))
def test_values_that_are_mistaken_by_more_raise_an_alarm_of_their_own_error(seed: int):
    random = np.random.default_rng(seed)
    drift = Drift(["online"], ["stay"], values=(0,))
    said = random.lognormal(3.0, 0.5, (12_000, 1, 1)).astype(np.float32)
    labels = (said[:, 0] * random.lognormal(0.0, 0.5, (12_000, 1))).astype(np.float32)
    assert watch(drift, said[:8_000], labels[:8_000]) == []
    # Users stay three times as long all at once.
    (alarm,) = watch(drift, said[8_000:], 3 * labels[8_000:], 8_000)
    assert alarm.at_ms <= 8_000 + NOTICED
    assert alarm.error == "log error"
    assert alarm.before == pytest.approx(0.4, abs=0.1) and alarm.after > alarm.before
    assert drift_text(alarm).startswith("stay: the log error of online went up from 0.")
