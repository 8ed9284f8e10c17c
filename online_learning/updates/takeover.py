"""Whether a writer that may no longer write was replaced for good: the log says who has begun since."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from kafka.errors import KafkaError

from online_learning.updates.log_writer import Fenced, PublishFailed
from online_learning.updates.position import stream_of
from online_learning.updates.publisher import Publisher
from streams import kafka
from streams.records import Frame, FrameKind
from streams.settings import KafkaSettings
from streams.takeover import Superseded
from streams.topics import UPDATES

# A trainer that has fenced another one has this long (`Publisher.begin_epoch`) until its first frame.
FENCED_WAIT_S: Final = 60.0
# A transaction that broke for another reason has no successor: that is found out soon.
FAILED_WAIT_S: Final = 5.0
_LOOK_S: Final = 0.3


@contextmanager
def successor_obeyed(publisher: Publisher, settings: KafkaSettings, stop: threading.Event) -> Iterator[None]:
    """Turns a PublishFailed of the block into Superseded where the log shows that another trainer has begun since.

    Kafka alone does not tell a successor from a transaction of our own that it gave up (after a minute without a word
    of ours): a successor's epoch is in the log. Without one the PublishFailed goes on, and a restart is right.
    """
    try:
        yield
    except PublishFailed as error:
        if not publisher.begun_at:
            raise  # nothing of ours was to be in the log yet
        wait_s = FENCED_WAIT_S if isinstance(error, Fenced) else FAILED_WAIT_S
        epoch = _successor(publisher, settings, stop, wait_s)
        if epoch is None:
            raise
        raise Superseded(f"fenced by epoch {epoch}: another trainer has taken over the update log") from error


def _successor(publisher: Publisher, settings: KafkaSettings, stop: threading.Event, wait_s: float) -> int | None:
    """The newest epoch of another trainer that began after ours; None where none shows within `wait_s`."""
    deadline_s = time.monotonic() + wait_s
    try:
        reader = kafka.consumer(settings, client_id="freshet-successor", wait_s=wait_s, stop=stop)
        try:
            kafka.assign(reader, [UPDATES.name], wait_s=wait_s, stop=stop)
            begins = kafka.begin_offsets(reader, list(reader.assignment()), wait_s, stop)
            for p in reader.assignment():
                reader.seek(p, max(begins[p], publisher.position.offsets.get(p.partition, 0)))
            while not stop.is_set() and time.monotonic() < deadline_s:
                found: list[int] = [
                    frame.epoch
                    for records in reader.poll(timeout_ms=int(_LOOK_S * 1e3)).values()
                    for record in records
                    if _is_later(frame := UPDATES.codec.decode(record.value), publisher)
                ]
                if found:
                    return max(found)
        finally:
            reader.close()
    except (kafka.BrokerAway, kafka.Stopped, KafkaError):
        pass
    return None


def _is_later(frame: Frame, publisher: Publisher) -> bool:
    if stream_of(frame.table, frame.shard) != publisher.stream or frame.epoch < publisher.epoch:
        return False
    # Two that begin at once may take the same number; only one of them comes into the log.
    same = frame.epoch == publisher.epoch
    return not same or (frame.kind is FrameKind.EPOCH and frame.created_at != publisher.begun_at)
