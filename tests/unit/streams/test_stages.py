"""What the join's stage refuses is a dead letter that says why. Where a backlog is read, both its inputs go on in step;
a trickle is handled as it comes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from streams import topics
from streams.local_state import LocalState, opened
from streams.outbox import Outbox
from streams.records import Action, DeadLetter, Impression, Shown
from streams.settings import JoinSettings, StreamsSettings
from streams.signals import decoded
from streams.stages import JoinStage
from streams.topics import Topic

T0 = 1_700_000_000_000


class Record:
    """A record as a consumer hands it over."""

    partition, key = 0, b"u"

    def __init__(self, topic: Topic, offset: int, record: object, timestamp: int = T0) -> None:
        self.topic, self.offset, self.value = topic.name, offset, topic.codec.encode(record)
        self.timestamp = timestamp


def shown(k: int, ts: int, appended_at: int | None = None) -> Record:
    """The impression of request k; without a time of its own appended at once."""
    impression = Impression(1, f"r{k}", ts, "u", [Shown("i", 0, 0.5, 0.5, "x", False)])
    return Record(topics.IMPRESSIONS, k, impression, ts if appended_at is None else appended_at)


def clicked(k: int, ts: int, received_at: int | None = None) -> Record:
    """A click on what request k showed; without a time of its own taken in at once."""
    at = ts if received_at is None else received_at
    action = Action(ts=ts, user="u", item="i", kind="click", event_id=f"e{k}", received_at=at, request_id=f"r{k}")
    return Record(topics.ACTIONS, k, action)


def impressions(n: int) -> list[Record]:
    return [shown(k, T0 + k) for k in range(n)]


def actions(n: int) -> list[Record]:
    return [clicked(k, T0 + k) for k in range(n)]


def taken(disk: LocalState, settings: StreamsSettings, log: Sequence[Record]) -> tuple[JoinStage, list[DeadLetter]]:
    """A stage of the join that has taken these impressions, and the dead letters that they made."""
    stage = JoinStage(settings, 0, disk)
    out = Outbox({topic.name: 1 for topic in topics.CATALOGUE})
    stage.take(topics.IMPRESSIONS.name, log, T0, out)
    stage.conclude({}, T0, out, moved=True)
    letters = [entry for topic, _, entries in out if topic == topics.DEAD_LETTERS.name for entry in entries]
    return stage, [topics.DEAD_LETTERS.codec.decode(value or b"") for _, value in letters]


@pytest.mark.parametrize("ts", [2**63, 2**64 - 1])
def test_a_time_beyond_64_bits_with_a_sign_is_unreadable(tmp_path: Path, ts: int) -> None:
    bad = shown(0, ts)
    disk = opened(tmp_path / "state", 2**20)
    stage, letters = taken(disk, StreamsSettings(), [bad, *impressions(4)[1:]])
    assert [(one.offset, one.reason, one.value) for one in letters] == [(0, "unreadable", bad.value)]
    assert (stage.counts()["impressions"], stage.counts()["refused"]) == (3, 1)
    disk.close()


def test_what_no_window_can_take_any_more_is_too_late(tmp_path: Path) -> None:
    join = JoinSettings(window_s=5.0, lateness_s=2.0, horizon_s=10.0)
    log = [shown(0, T0), shown(1, T0 - 17_000), shown(2, T0 - 17_001), shown(2, T0)]
    disk = opened(tmp_path / "state", 2**20)
    stage, letters = taken(disk, StreamsSettings(join=join), log)
    assert [(one.offset, one.reason, one.detail) for one in letters] == [
        (2, "too-late", "its window and horizon are over")
    ]
    # Nothing remembers it: the same request may come again.
    assert (stage.counts()["late_impressions"], stage.counts()["held"]) == (1, 3)
    disk.close()


def test_a_host_whose_clock_is_ahead_is_refused_and_harms_nobody_else(tmp_path: Path) -> None:
    join = JoinSettings(future_s=60.0)
    log = [shown(0, T0), shown(1, T0 + 60_000, T0), shown(2, T0 + 60_001, T0), shown(3, T0 + 10, T0 + 10)]
    disk = opened(tmp_path / "state", 2**20)
    stage, letters = taken(disk, StreamsSettings(join=join), log)
    said = f"`$.ts` == {T0 + 60_001}, more than 60000 ms ahead of {T0}"
    assert [(one.offset, one.reason, one.detail) for one in letters] == [(2, "future-time", said)]
    assert (stage.counts()["future_impressions"], stage.counts()["held"]) == (1, 3)
    stage.take(topics.ACTIONS.name, [clicked(k, T0 + 20) for k in (0, 1, 2, 3)], T0, Outbox({}))
    # The request that was refused has an action that waits for it.
    assert (stage.counts()["joined"], stage.counts()["waiting"]) == (3, 1)
    disk.close()


def test_what_is_from_the_future_is_counted_of_items_and_users_when_it_came(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state", 2**20)
    stage = JoinStage(StreamsSettings(), 0, disk)
    out = Outbox({topic.name: 1 for topic in topics.CATALOGUE} | {topics.SIGNALS.name: 2})
    stage.take(topics.IMPRESSIONS.name, [shown(0, T0 + 60_000, T0)], T0, out)
    stage.take(topics.ACTIONS.name, [clicked(0, T0 + 60_000, T0 + 1), clicked(9, T0 + 60_000, T0 + 2)], T0, out)
    stage.conclude({}, T0 + 5, out, moved=True)
    sent = {topic: [value or b"" for _, value in entries] for topic, _, entries in out}
    (signals,) = [decoded(topics.SIGNALS.codec.decode(value)) for value in sent[topics.SIGNALS.name]]
    assert signals.ts.tolist() == [T0, T0 + 1]
    (row,) = [topics.FEATURES.codec.decode(value) for value in sent[topics.FEATURES.name]]
    assert (row.ts, row.values["last_action_ts"]) == (T0 + 2, T0 + 2)
    disk.close()


def test_actions_that_are_ahead_of_the_impressions_are_left_for_later(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state", 2**20)
    stage = JoinStage(StreamsSettings(), 0, disk)
    seen, acted = impressions(300), actions(400)
    batch = {topics.IMPRESSIONS.name: seen, topics.ACTIONS.name: acted}
    assert stage.early(batch) == {topics.ACTIONS.name: 100}
    assert stage.early({topics.IMPRESSIONS.name: seen[:5], topics.ACTIONS.name: acted[:9]}) == {}
    assert stage.early({topics.ACTIONS.name: acted * 2}) == {}
    out = Outbox({topic.name: 1 for topic in topics.CATALOGUE})
    stage.take(topics.IMPRESSIONS.name, seen, T0, out)
    stage.take(topics.ACTIONS.name, acted[:300], T0, out)
    stage.conclude({}, T0, out, moved=True)
    assert (stage.counts()["joined"], stage.counts()["waiting"]) == (300, 0)
    disk.close()
