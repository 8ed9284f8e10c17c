"""Where a backlog is read, both inputs of the join go on in step; a trickle is handled as it comes."""

from pathlib import Path

from streams import topics
from streams.local_state import opened
from streams.outbox import Outbox
from streams.records import Action, Impression, Shown
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
