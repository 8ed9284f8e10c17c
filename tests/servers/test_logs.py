"""The logs of topics are read from one place to another."""

import threading

import pytest

from streams import topics
from streams.kafka import Stopped, producer
from streams.logs import ends_of, raw_records
from tests.stacks import RunningStack

pytestmark = pytest.mark.servers


def test_logs_are_read_between_two_places_and_no_further(fresh_kafka: RunningStack) -> None:
    kafka, names = fresh_kafka.settings.kafka, [topics.EVENTS.name, topics.IMPRESSIONS.name]
    assert list(raw_records(kafka, ends_of(kafka, names))) == []
    with producer(kafka) as out:
        for n in range(40):
            out.send_bytes(names[n % 2], b"%d" % n, partition=n // 2 % 2)
        out.flush(60)
        first = ends_of(kafka, names)
        assert sorted(int(one.value) for one in raw_records(kafka, first)) == list(range(40))
        out.send_bytes(names[0], b"40", partition=0)
        out.flush(60)
        # What came since is behind the ends, and what was read before lies before the begins.
        assert len(list(raw_records(kafka, first))) == 40
        (new,) = raw_records(kafka, ends_of(kafka, names), first)
        assert (new.topic, new.partition, new.value) == (names[0], 0, b"40")
        raw = raw_records(kafka, first)
        assert next(raw).offset == 0
        raw.close()
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(raw_records(kafka, first, stop=stop))
