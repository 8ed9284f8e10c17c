"""The join gives what the reference says, however its inputs are interleaved, cut into batches and restarted."""

import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from streams.intake import Rejected
from streams.records import Action, Impression, Shown
from streams.reference import Expected, expected_examples, observed
from streams.settings import JoinSettings, LabelRule, StateSettings, StreamsSettings, Target, TaskSettings
from streams.topics import IMPRESSIONS
from tests.unit.streams.running import Run

T0 = 1_700_000_000_000
USERS = ("u1", "u2")
REQUESTS = ("r1", "r2", "r3", "r4")
ITEMS = ("a", "b", "c")

# Where logs begin: some before the epoch.
BEGINS = (T0, T0, -10_000, -300)


@st.composite
def impressions(draw: st.DrawFn, begin: int) -> Impression:
    request = draw(st.sampled_from(REQUESTS))
    ts = begin + 500 * draw(st.integers(0, 60).map(lambda s: (s + 17 * REQUESTS.index(request)) % 61))
    # Mostly different items, sometimes none, one twice, or a request that another user made too.
    picked = draw(
        st.one_of(st.just(ITEMS[: 1 + REQUESTS.index(request) % 3]), st.lists(st.sampled_from(ITEMS), max_size=3))
    )
    user = draw(st.sampled_from((USERS[REQUESTS.index(request) % 2],) * 3 + USERS))
    return Impression(1, request, ts, user, [Shown(item, k, 0.5, 0.5, "x", False) for k, item in enumerate(picked)])


@st.composite
def actions(draw: st.DrawFn, begin: int) -> Action:
    kind, value = draw(
        st.sampled_from(
            [
                *(("click", None), ("like", None), ("view", None), ("rating", 5.0), ("rating", 2.0), ("rating", None)),
                *(("dwell", 30.0), ("dwell", 3.0), ("dwell", 1.0), ("watch", 12.5), ("watch", None)),
            ]
        )
    )
    ts = begin + 500 * draw(st.integers(0, 60))
    request = draw(st.sampled_from((*REQUESTS, *REQUESTS, "unknown", None)))
    asked_by = USERS[REQUESTS.index(request) % 2] if request in REQUESTS else USERS[0]
    return Action(
        ts=ts,
        user=draw(st.sampled_from((asked_by, asked_by, *USERS))),
        item=draw(st.sampled_from(("a", *ITEMS, "d"))),
        kind=kind,
        value=value,
        event_id=draw(st.sampled_from([f"e{k}" for k in range(30)])),
        request_id=request,
        received_at=ts + draw(st.sampled_from([0, 1, -3_000])),
    )


# Impressions, each with when it was appended.
Shows = list[tuple[Impression, int]]
# How long after its own time an impression is appended: some hosts' clocks are ahead.
DELAYS_MS = (0, 0, 1, 700, 20_000, -3_000, -9_999, -10_001, -40_000)


@st.composite
def logs(draw: st.DrawFn) -> tuple[Shows, list[Action]]:
    begin = draw(st.sampled_from(BEGINS))
    made: dict[tuple[str, str], Impression] = {}
    drawn = draw(st.lists(impressions(begin), max_size=6))
    # A user makes a request once: its copies agree in everything.
    unskewed = [made.setdefault((one.user, one.request_id), one) for one in drawn]
    acted = draw(st.lists(actions(begin), max_size=16))
    for log in (unskewed, acted):
        if log and draw(st.booleans()):
            log.append(draw(st.sampled_from(log)))  # type: ignore[arg-type]
    if draw(st.booleans()):
        # Mostly in order, as real logs are.
        unskewed.sort(key=lambda one: one.ts)
        acted.sort(key=lambda one: one.ts)
    return [(one, one.ts + draw(st.sampled_from(DELAYS_MS))) for one in unskewed], acted


joins = st.builds(
    JoinSettings,
    window_s=st.sampled_from([1.0, 5.0, 20.0]),
    lateness_s=st.sampled_from([0.0, 2.0]),
    horizon_s=st.sampled_from([1.0, 10.0, 100.0]),
    negative_rate=st.sampled_from([1.0, 0.5]),
    future_s=st.sampled_from([10.0, 3600.0]),
)


# Beside the default two: two tasks to which silence says 0, one of which an action may also tell 0, and one task alone
# to which it says nothing.
SEVERAL = {
    "tasks": (
        TaskSettings(name="click", shown_is_negative=True),
        TaskSettings(name="stay", shown_is_negative=True),
        TaskSettings(name="rating"),
    ),
    "labels": (
        LabelRule(task="click", kind="click"),
        LabelRule(task="stay", kind="dwell", at_least=10.0),
        LabelRule(task="stay", kind="like"),
        LabelRule(task="rating", kind="rating", at_least=4.0),
    ),
}
ONE = {"tasks": (TaskSettings(name="rating"),), "labels": (LabelRule(task="rating", kind="rating", at_least=4.0),)}
# A value that two kinds of action tell, beside a binary task that one of them tells too, and values alone.
STAY = TaskSettings(name="stay", target=Target.VALUE)
VALUES: dict[str, Any] = {
    "tasks": (TaskSettings(name="click", shown_is_negative=True), STAY),
    "labels": (
        LabelRule(task="click", kind="click"),
        LabelRule(task="click", kind="watch"),
        LabelRule(task="stay", kind="watch"),
        LabelRule(task="stay", kind="dwell"),
    ),
}
ONE_VALUE = {"tasks": (STAY,), "labels": (LabelRule(task="stay", kind="dwell"),)}


@given(logs(), joins, st.data())
@settings(max_examples=80)
def test_the_join_equals_the_reference(
    log: tuple[Shows, list[Action]], join: JoinSettings, data: st.DataObject
) -> None:
    shown, acted = log
    memory_mb = data.draw(st.sampled_from([1e-6, 64.0]))
    tasks: dict[str, Any] = data.draw(st.sampled_from([{}, SEVERAL, ONE, VALUES, ONE_VALUE]))
    configured = StreamsSettings(join=join, state=StateSettings(memory_mb=memory_mb), **tasks)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "state", configured)
        follow(run, shown, acted, data)
        run.disk.close()
    got = sorted(observed(example) for example in run.examples)
    assert got == expected_examples({0: shown}, {0: acted}, configured)
    revisions = Counter((one.user, one.example_id, one.revision) for one in got if not one.organic)
    assert max(revisions.values(), default=1) == 1


@given(logs(), joins, st.randoms(use_true_random=False))
@settings(max_examples=80)
def test_the_last_value_of_a_slot_does_not_depend_on_the_order_of_the_log(
    log: tuple[Shows, list[Action]], join: JoinSettings, random: Random
) -> None:
    shown, acted = log
    # What joins and what is a duplicate does depend on the order where clocks or ids say so.
    join = replace(join, lateness_s=100.0, horizon_s=1000.0)
    acted = list({(one.user, one.event_id): one for one in acted}.values())
    configured = StreamsSettings(join=join, **VALUES)
    shuffled = random.sample(acted, len(acted))
    one, other = (_last_values(expected_examples({0: shown}, {0: order}, configured)) for order in (acted, shuffled))
    assert one == other


def test_an_event_that_is_older_than_the_horizon_is_taken_once_within_it(tmp_path: Path) -> None:
    configured = StreamsSettings(join=JoinSettings(lateness_s=2.0, horizon_s=10.0))

    def one(event: str, ts: int, received_at: int) -> Action:
        return Action(ts=ts, user="u1", item="a", kind="click", event_id=event, received_at=received_at)

    old = one("old", T0 - 60_000, T0)
    log = [
        one("now", T0, T0),
        old,
        old,
        one("then", T0 + 10_000, T0 + 10_000),
        old,
        one("later", T0 + 10_001, T0 + 10_001),
    ]
    log += [old, old]
    run = Run(tmp_path / "state", configured)
    for action in log:
        run.join.action(action)
        run.commit()
    run.commit(10**6, 10**6)
    run.disk.close()
    got = sorted(map(observed, run.examples))
    assert got == expected_examples({}, {0: log}, configured)
    # Once when it came first, and once when that was forgotten.
    assert Counter(one.example_id for one in got) == {"now": 1, "then": 1, "later": 1, "old": 2}


@pytest.mark.parametrize("after_ms", [2_003, 2_004, 2_005])
def test_part_of_a_millisecond_is_rounded_by_join_and_reference_alike(tmp_path: Path, after_ms: int) -> None:
    join = JoinSettings(window_s=1.0019, lateness_s=0.0, horizon_s=1.0019)
    configured = StreamsSettings(join=join)
    shown = Impression(1, "r1", T0, "u1", [Shown("a", 0, 0.5, 0.5, "x", False)])
    ts = T0 + after_ms
    acted = Action(ts=ts, user="u1", item="a", kind="click", event_id="e", received_at=ts, request_id="r1")
    run = Run(tmp_path / "state", configured)
    run.join.impression(shown, IMPRESSIONS.codec.encode(shown), T0)
    run.join.action(acted)
    run.commit(10**6, 10**6)
    run.disk.close()
    got = sorted(map(observed, run.examples))
    assert got == expected_examples({0: [(shown, T0)]}, {0: [acted]}, configured)
    assert any(one.organic for one in got) == (after_ms > 2_004)


def _last_values(examples: list[Expected]) -> dict[tuple[str, str], tuple[str, str, float]]:
    return {
        (one.user, one.example_id): next(label for label in one.labels if label[0] == "stay")
        for one in sorted(examples, key=lambda one: one.revision)
    }


def follow(run: Run, shown: Shows, acted: list[Action], data: st.DataObject) -> None:
    """Reads both logs in some interleaving, commits now and then, and starts anew from disk or changelog."""
    i = a = 0
    while i < len(shown) or a < len(acted):
        if a >= len(acted) or (i < len(shown) and data.draw(st.booleans())):
            impression, appended_at = shown[i]
            with suppress(Rejected):
                run.join.impression(impression, IMPRESSIONS.codec.encode(impression), appended_at)
            i += 1
        else:
            run.join.action(acted[a])
            a += 1
        step = data.draw(st.sampled_from(["go on", "go on", "commit", "restart", "from changelog"]))
        if step != "go on":
            run.commit()
        if step in ("restart", "from changelog"):
            run.restart(anew=step == "from changelog")
    run.commit()
    run.commit(10**9, 10**9)
