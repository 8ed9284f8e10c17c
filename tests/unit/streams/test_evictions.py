"""A join that may hold few impressions ends the windows of the oldest early, and says so."""

import logging
from pathlib import Path

import pytest

from streams import topics
from streams.local_state import opened
from streams.outbox import Outbox
from streams.records import Action, Impression, Shown
from streams.settings import JoinSettings, StreamsSettings
from streams.stages import JoinStage
from tests.unit.streams.running import MEMORY_BYTES, Run
from tests.unit.streams.test_stages import T0, shown

MOST = 2
SETTINGS = StreamsSettings(join=JoinSettings(window_s=5.0, lateness_s=1.0, horizon_s=10.0, max_held=MOST))


def show(run: Run, k: int) -> None:
    """Request k, made 300 ms after the one before it, in a batch of its own."""
    impression = Impression(
        1, f"r{k}", T0 + 300 * k, "u", [Shown(item, n, 0.5, 0.5, "x", False) for n, item in enumerate("ab")]
    )
    run.join.impression(impression, topics.IMPRESSIONS.codec.encode(impression), impression.ts)
    run.commit()


def click(run: Run, k: int, ts: int) -> None:
    """A click on the first item of request k, in a batch of its own."""
    action = Action(ts=ts, user="u", item="a", kind="click", event_id=f"e{k}", received_at=ts, request_id=f"r{k}")
    run.join.action(action)
    run.commit()


def said(run: Run, first: int = 0) -> list[tuple[str, int, float, bool]]:
    """What the examples from the `first` on say: id, revision, click, organic."""
    return [(one.example_id, one.revision, one.labels["click"].value, one.organic) for one in run.examples[first:]]


@pytest.mark.parametrize("anew", [False, True])
def test_windows_of_the_oldest_end_early_and_later_clicks_on_them_are_organic(tmp_path: Path, anew: bool) -> None:
    run = Run(tmp_path / "state", SETTINGS)
    for k in range(4):
        show(run, k)
    # No clock is near the end of any window.
    assert said(run) == [(f"r{k}/{n}", 0, 0.0, False) for k in (0, 1) for n in (0, 1)]
    assert (run.join.counts.evicted, run.join.sizes()["held"]) == (2, MOST)
    run.restart(anew)
    click(run, 0, T0 + 1_000)
    click(run, 3, T0 + 1_100)
    run.commit(10**6, 10**6)
    silent = [(name, 0, 0.0, False) for name in ("r2/0", "r2/1", "r3/1")]
    assert sorted(said(run, first=4)) == sorted([("r3/0", 0, 1.0, False), *silent, ("e0", 0, 1.0, True)])
    assert run.join.sizes()["held"] == 0
    run.disk.close()


def test_a_copy_of_what_was_forgotten_early_counts_again_and_one_of_what_is_held_does_not(tmp_path: Path) -> None:
    run = Run(tmp_path / "state", SETTINGS)
    for k in range(3):
        show(run, k)
    assert said(run) == [("r0/0", 0, 0.0, False), ("r0/1", 0, 0.0, False)]
    show(run, 2)
    assert run.join.counts.duplicate_impressions == 1
    show(run, 0)
    # It lies with the oldest that are left, and goes with them.
    assert (run.join.counts.evicted, run.join.sizes()["held"]) == (3, 1)
    run.commit(10**6, 10**6)
    assert [said(run).count((f"r{k}/0", 0, 0.0, False)) for k in range(3)] == [2, 1, 1]
    run.disk.close()


def test_who_drops_early_says_so_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = opened(tmp_path / "state", MEMORY_BYTES)
    stage = JoinStage(SETTINGS, 3, disk)
    with caplog.at_level(logging.WARNING, "streams.stages"):
        for k in range(20):
            out = Outbox({topic.name: 1 for topic in topics.CATALOGUE})
            stage.take(topics.IMPRESSIONS.name, [shown(k, T0 + 300 * k)], T0, out)
            changes = stage.conclude({}, T0 + 10_000 * k, out, moved=True)
            disk.apply(changes, None)
            stage.settle()
    assert [record.getMessage().split(" forgotten")[0] for record in caplog.records] == [
        "join-3: 1 impressions",
        "join-3: 6 impressions",
        "join-3: 6 impressions",
    ]
    assert stage.counts()["evicted"] == 18
    disk.close()
