"""What the trainer reads from Kafka, and how far it is."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from streams import kafka
from streams.codec import Unreadable
from streams.dead_letters import DeadLetters, Reason
from streams.documents import read_document
from streams.intake import Rejected
from streams.records import Item, User
from streams.settings import MOST_RECORD_BYTES, KafkaSettings
from streams.topics import ITEMS, USERS, Keep, Topic

logger = logging.getLogger(__name__)

# A starting trainer may meet a broker that is starting too.
_WAIT_S: Final = 300.0

_DOCUMENTS: Final[Mapping[str, type[Item] | type[User]]] = {ITEMS.name: Item, USERS.name: User}

Positions = dict[str, dict[int, int]]
"""Per topic and partition the next offset to read."""


class Input:
    """All partitions of some topics, read from `positions` on; `positions` is that of the records handed out so far.

    What cannot be read is passed over and counted in `unreadable`. Where `dead_letters` is given it goes there too; of
    topics that the worker reads as well, the worker tells.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topics: tuple[Topic, ...],
        positions: Positions,
        dead_letters: DeadLetters | None,
        stop: threading.Event,
    ) -> None:
        self._topics = {topic.name: topic for topic in topics}
        self._dead_letters = dead_letters
        self.unreadable = 0
        name = "-".join(self._topics)
        self._reader: KafkaConsumer = kafka.consumer(
            settings, client_id=f"freshet-trainer-{name}", wait_s=_WAIT_S, stop=stop
        )
        known = {(t, k): offset for t in self._topics for k, offset in positions.get(t, {}).items()}
        self._partitions = kafka.assign(self._reader, list(self._topics), known, wait_s=_WAIT_S, stop=stop)
        self.positions: Positions = {topic: {} for topic in self._topics}
        for partition in self._partitions:
            self.positions[partition.topic][partition.partition] = self._position(partition)

    def poll(self, timeout_ms: float, max_records: int) -> Iterator[tuple[Any, Any]]:
        """Yields (Kafka's record, decoded record) of what is there within `timeout_ms`, per partition in order.

        A null value is handed out as None where the topic is compacted, and cannot be read elsewhere. The caller takes
        all of it before it looks at `positions`.
        """
        for partition, records in self._reader.poll(timeout_ms=timeout_ms, max_records=max_records).items():
            topic = self._topics[partition.topic]
            for record in records:
                self.positions[partition.topic][partition.partition] = record.offset + 1
                if record.value is None:
                    if topic.keep is Keep.COMPACTED:
                        yield record, None
                    else:
                        self._pass_over(record, Reason.EMPTY, "there is no value")
                    continue
                try:
                    value = read(topic, record)
                except Unreadable as error:
                    self._pass_over(record, Reason.UNREADABLE, str(error))
                    continue
                except Rejected as rejected:
                    self._pass_over(record, rejected.reason, rejected.detail)
                    continue
                yield record, value

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Reads on from these offsets, by partition of every topic. Raises ValueError for a partition that is not
        there."""
        known = {partition.partition for partition in self._partitions}
        for number in offsets:
            if number not in known:
                raise ValueError(f"there is no partition {number}")
        for partition in self._partitions:
            if partition.partition in offsets:
                self._reader.seek(partition, offsets[partition.partition])
                self.positions[partition.topic][partition.partition] = offsets[partition.partition]

    def begins(self) -> Positions:
        """Where the log begins now; raises BrokerAway."""
        try:
            found = kafka.begin_offsets(self._reader, self._partitions, 0.0)
        except KafkaError as error:
            raise kafka.BrokerAway(f"beginning offsets: {error}") from error
        begins: Positions = {topic: {} for topic in self._topics}
        for partition, offset in found.items():
            begins[partition.topic][partition.partition] = offset
        return begins

    def ends(self, partitions: list[int] | None = None, wait_s: float = 0.0) -> Positions:
        """The ends of the log now; raises BrokerAway where nobody answers within `wait_s` (0: one question)."""
        wanted = [p for p in self._partitions if partitions is None or p.partition in partitions]
        try:
            found = kafka.end_offsets(self._reader, wanted, wait_s)
        except KafkaError as error:
            raise kafka.BrokerAway(f"end offsets: {error}") from error
        ends: Positions = {topic: {} for topic in self._topics}
        for partition, end in found.items():
            ends[partition.topic][partition.partition] = end
        return ends

    def reached(self, ends: Positions) -> bool:
        """Whether everything before `ends` has been handed out (transaction markers are nobody's records)."""
        return all(
            self._position(p) >= ends[p.topic].get(p.partition, 0)
            for p in self._partitions
            if p.partition in ends[p.topic]
        )

    def lag(self) -> int:
        """Records behind the end of the log as of the last answer of the broker."""
        behind = 0
        for partition in self._partitions:
            high = self._reader.highwater(partition)
            if high is not None:
                behind += max(0, high - self._position(partition))
        return behind

    def read_to_end(self, take: Callable[[Any, Any], None], stop: threading.Event) -> None:
        """Hands everything up to the present end of the log to `take`."""
        ends = self.ends(wait_s=_WAIT_S)
        while not self.reached(ends) and not stop.is_set():
            for record, value in self.poll(100, 5_000):
                take(record, value)

    def close(self) -> None:
        self._reader.close()

    def _pass_over(self, record: Any, reason: Reason, detail: str) -> None:
        self.unreadable += 1
        if self._dead_letters is not None:
            self._dead_letters.send(record, reason, detail)
        logger.warning("%s-%d@%d: %s", record.topic, record.partition, record.offset, detail)

    def _position(self, partition: Any) -> int:
        return int(self._reader.position(partition) or 0)


def read(topic: Topic, record: Any) -> Any:
    """What a record with a value says; of items and users by the rule of everybody who reads them.

    Raises Unreadable, of items and users Rejected.
    """
    if kind := _DOCUMENTS.get(topic.name):
        return read_document(record, kind, MOST_RECORD_BYTES)
    return topic.codec.decode(record.value)
