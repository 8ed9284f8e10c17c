"""What the join's stage refuses is a dead letter that says why. Where a backlog is read, both its inputs go on in step;
a trickle is handled as it comes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from streams import topics
from streams.local_state import LocalState, opened
from streams.outbox import Outbox
from streams.records import Action, DeadLetter, Impression, Shown
from streams.settings import StreamsSettings
from streams.stages import JoinStage
from streams.topics import Topic

T0 = 1_700_000_000_000


class Record:
    """A record as a consumer hands it over."""

    partition, key = 0, b"u"

    def __init__(self, topic: Topic, offset: int, record: object) -> None:
        self.topic, self.offset, self.value = topic.name, offset, topic.codec.encode(record)


def impressions(n: int) -> list[Record]:
    return [
        Record(topics.IMPRESSIONS, k, Impression(1, f"r{k}", T0 + k, "u", [Shown("i", 0, 0.5, 0.5, "x", False)]))
        for k in range(n)
    ]


def actions(n: int) -> list[Record]:
    made = []
    for k in range(n):
        action = Action(
            ts=T0 + k, user="u", item="i", kind="click", event_id=f"e{k}", received_at=T0 + k, request_id=f"r{k}"
        )
        made.append(Record(topics.ACTIONS, k, action))
    return made


def taken(disk: LocalState, settings: StreamsSettings, shown: Sequence[Record]) -> tuple[JoinStage, list[DeadLetter]]:
    """A stage of the join that has taken these impressions, and the dead letters that they made."""
    stage = JoinStage(settings, 0, disk)
    out = Outbox({topic.name: 1 for topic in topics.CATALOGUE})
    stage.take(topics.IMPRESSIONS.name, shown, T0, out)
    stage.conclude({}, T0, out, moved=True)
    letters = [entry for topic, _, entries in out if topic == topics.DEAD_LETTERS.name for entry in entries]
    return stage, [topics.DEAD_LETTERS.codec.decode(value or b"") for _, value in letters]


@pytest.mark.parametrize("ts", [2**63, 2**64 - 1])
def test_a_time_beyond_64_bits_with_a_sign_is_unreadable(tmp_path: Path, ts: int) -> None:
    bad = Record(topics.IMPRESSIONS, 0, Impression(1, "bad", ts, "u", [Shown("i", 0, 0.5, 0.5, "x", False)]))
    disk = opened(tmp_path / "state", 2**20)
    stage, letters = taken(disk, StreamsSettings(), [bad, *impressions(3)])
    assert [(one.offset, one.reason, one.value) for one in letters] == [(0, "unreadable", bad.value)]
    assert (stage.counts()["impressions"], stage.counts()["refused"]) == (3, 1)
    disk.close()


def test_actions_that_are_ahead_of_the_impressions_are_left_for_later(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state", 2**20)
    stage = JoinStage(StreamsSettings(), 0, disk)
    shown, acted = impressions(300), actions(400)
    batch = {topics.IMPRESSIONS.name: shown, topics.ACTIONS.name: acted}
    assert stage.early(batch) == {topics.ACTIONS.name: 100}
    assert stage.early({topics.IMPRESSIONS.name: shown[:5], topics.ACTIONS.name: acted[:9]}) == {}
    assert stage.early({topics.ACTIONS.name: acted * 2}) == {}
    out = Outbox({topic.name: 1 for topic in topics.CATALOGUE})
    stage.take(topics.IMPRESSIONS.name, shown, T0, out)
    stage.take(topics.ACTIONS.name, acted[:300], T0, out)
    stage.conclude({}, T0, out, moved=True)
    assert (stage.counts()["joined"], stage.counts()["waiting"]) == (300, 0)
    disk.close()
