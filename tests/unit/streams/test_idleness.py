"""An input is idle by the broker's own word and by nothing else, and for no longer than it was heard to be."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from streams.inputs import Idleness, Records
from streams.log_reader import LogRecord

SHOWN, ACTED = TopicPartition("impressions", 0), TopicPartition("actions", 0)
GRACE_S = 1.0


class Scene:
    """Two inputs and what is said of them at a time of our own."""

    def __init__(self, inputs: tuple[TopicPartition, ...] = (SHOWN, ACTED)) -> None:
        self.now_s = 100.0
        self.at_end = {SHOWN: True, ACTED: True}
        self.upstream_done = {SHOWN.topic: True, ACTED.topic: True}
        self.answer_takes_s = 0.0
        self.away = False
        self.asked: list[TopicPartition] = []
        self.idleness = Idleness(inputs, self._is_at_end, GRACE_S, self._is_done, lambda: self.now_s)

    async def _is_at_end(self, tp: TopicPartition) -> bool:
        self.asked.append(tp)
        self.now_s += self.answer_takes_s
        if self.away:
            raise KafkaConnectionError("away")
        return self.at_end[tp]

    async def _is_done(self, topic: str) -> bool:
        return self.upstream_done[topic]

    def look(self, after_s: float, *found: TopicPartition) -> tuple[int | None, int | None]:
        """What is idle after so many seconds, with records of these inputs in the batch: impressions, actions."""
        self.now_s += after_s
        batch: Records = {tp.topic: [LogRecord(tp.topic, tp.partition, 0, 0, None, b"")] for tp in found}
        idle = asyncio.run(self.idleness.look(batch))
        return idle.get(SHOWN.topic), idle.get(ACTED.topic)


def test_silence_counts_from_its_grace_on_for_each_input_by_itself() -> None:
    scene = Scene()
    assert scene.look(0.9) == (None, None)
    assert scene.asked == []
    assert scene.look(0.5) == (400, 400)
    assert scene.look(0.6, ACTED) == (1_000, None)
    assert scene.look(1.2) == (2_200, 200)


def test_the_broker_is_asked_twice_in_each_grace_at_most() -> None:
    scene = Scene()
    # From 1 s to 5 s, twice a second.
    seen = [scene.look(0.125)[0] is not None for _ in range(40)]
    assert sum(seen) == scene.asked.count(SHOWN) == 9


def test_records_that_are_on_their_way_are_no_silence() -> None:
    scene = Scene()
    scene.at_end[SHOWN] = False
    assert scene.look(2.0) == (None, 1_000)
    scene.at_end[SHOWN] = True
    # It begins anew: how long the records took says nothing.
    assert scene.look(0.9) == (None, 1_900)
    assert scene.look(0.6) == (500, 2_500)


def test_what_the_intake_holds_back_is_no_silence() -> None:
    scene = Scene()
    scene.upstream_done[ACTED.topic] = False
    assert scene.look(2.0) == (1_000, None)
    assert scene.asked == [SHOWN]


def test_time_without_the_broker_is_no_silence() -> None:
    scene = Scene()
    assert scene.look(1.5) == (500, 500)
    scene.away = True
    for _ in range(10):
        with pytest.raises(KafkaConnectionError):
            scene.look(1.0)
    scene.away = False
    assert scene.look(1.0) == (None, None)
    assert scene.look(1.5) == (500, 500)


def test_an_answer_that_took_long_makes_nothing_idle() -> None:
    scene = Scene()
    scene.answer_takes_s = 3.0
    assert scene.look(1.5) == (None, None)
    scene.answer_takes_s = 0.0
    assert scene.look(1.25) == (None, 250)
    assert scene.look(1.25) == (250, 1_500)


def test_nobody_waits_for_the_only_input() -> None:
    scene = Scene((SHOWN,))
    assert scene.look(60.0) == (None, None)
    assert scene.asked == []
