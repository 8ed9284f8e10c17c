"""What is read of a partition and not yet stored: pure bookkeeping, so that every crash is a plain test."""

from collections import deque
from typing import Any, Final

import msgspec

from serving.evaluation.rows import Origin, Row, rows_of
from streams import topics
from streams.codec import Unreadable
from streams.dead_letters import Reason
from streams.topics import Topic

# Kafka bytes in one batch. Rows take about ten times that in Python, and stay far below the block size
# (1,048,449 rows, 256 MiB) at which ClickHouse would split an insert into parts that are stored one by one.
BATCH_BYTES: Final = 8 * 2**20


class Batch(msgspec.Struct):
    """Consecutive records of one partition: their rows by table, and those that made none."""

    first: int
    last: int
    n_bytes: int = 0
    rows: dict[str, list[Row]] = {}
    unreadable: list[tuple[Any, Reason, str]] = []


class Partition:
    """What is read and not yet stored of one partition, as pure bookkeeping.

    Args:
        topic: The topic of the catalogue.
        stored: For each table of the topic the offset from which its rows are missing.
        start: The offset from which to read.
        cuts: Offsets at which a batch must begin, from an earlier process's intent.
    """

    def __init__(self, topic: Topic, number: int, stored: dict[str, int], start: int, cuts: frozenset[int]) -> None:
        self.topic = topic
        self.number = number
        self.next_offset = start
        self.done = start
        self._stored = stored
        self._cuts = cuts
        self.batches: deque[Batch] = deque()

    @property
    def n_bytes(self) -> int:
        return sum(batch.n_bytes for batch in self.batches)

    def add(self, record: Any) -> None:
        """Take the next record (kafka-python's ConsumerRecord)."""
        if record.offset < self.next_offset:
            return
        batch = self._batch_for(record.offset)
        batch.last = record.offset
        batch.n_bytes += len(record.value or b"") + len(record.key or b"")
        self.next_offset = record.offset + 1
        if record.value is None:
            # A tombstone deletes a definition, which the log of definitions keeps; elsewhere it is a mistake.
            if self.topic is not topics.EXPERIMENTS:
                batch.unreadable.append((record, Reason.EMPTY, "a null value means nothing on this topic"))
            return
        try:
            found = list(
                rows_of(self.topic.codec.decode(record.value), Origin(self.topic.name, self.number, record.offset))
            )
        except (Unreadable, RecursionError) as error:
            batch.unreadable.append((record, Reason.UNREADABLE, str(error)))
            return
        for table, row in found:
            if record.offset >= self._stored[table.name]:
                batch.rows.setdefault(table.name, []).append(row)

    def _batch_for(self, offset: int) -> Batch:
        newest = self.batches[-1] if self.batches else None
        crosses = newest is not None and any(newest.last < cut <= offset for cut in self._cuts)
        if newest is None or crosses or newest.n_bytes >= BATCH_BYTES:
            newest = Batch(first=offset, last=offset)
            self.batches.append(newest)
        return newest

    def finish(self) -> Batch:
        """Forget the oldest batch, which is stored."""
        batch = self.batches.popleft()
        self.done = batch.last + 1
        return batch
