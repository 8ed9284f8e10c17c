"""Records of one batch, gathered by topic and partition, to be sent in one transaction."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from aiokafka.partitioner import murmur2

from streams.columns import Columns, Entry, columns_of
from streams.topics import Topic


@lru_cache(maxsize=200_000)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Java's default partitioner gives a key (murmur2)."""
    hashed: int = murmur2(key)
    return (hashed & 0x7FFFFFFF) % partitions


class Outbox:
    """Gathers (key, value) per (topic, partition), each in order. `partitions`: the count of every topic sent to."""

    def __init__(self, partitions: dict[str, int]) -> None:
        self._partitions = partitions
        self._entries: dict[tuple[str, int], list[Entry]] = {}
        self._columns: dict[tuple[str, int], Columns] = {}

    def __len__(self) -> int:
        """How many records are in it."""
        return sum(map(len, self._entries.values())) + sum(map(len, self._columns.values()))

    def record(self, topic: Topic, record: Any, key: str, partition: int | None = None) -> None:
        """Adds a record of the catalogue, to the partition of its key where none is named."""
        self.bytes(topic.name, topic.codec.encode(record), key.encode(), partition)

    def bytes(self, topic: str, value: bytes | None, key: bytes, partition: int | None = None) -> None:
        """Adds bytes, to the partition of their key where none is named."""
        if partition is None:
            partition = partition_of(key, self._partitions[topic])
        self._entries.setdefault((topic, partition), []).append((key, value))

    def extend(self, topic: str, partition: int, entries: Sequence[Entry]) -> None:
        """Adds several (key, value) to a partition."""
        if entries:
            self._entries.setdefault((topic, partition), []).extend(entries)

    def put_first(self, topic: str, partition: int, columns: Columns) -> None:
        """Adds records that go before all others of their partition."""
        if len(columns):
            self._columns[topic, partition] = columns

    def columns(self) -> Iterator[tuple[str, int, Columns]]:
        """The records by topic and partition: of one partition in their order, though not all at once."""
        for (topic, partition), columns in self._columns.items():
            yield topic, partition, columns
        for (topic, partition), entries in self._entries.items():
            yield topic, partition, columns_of(entries)

    def __iter__(self) -> Iterator[tuple[str, int, list[Entry]]]:
        for place in {**self._columns, **self._entries}:
            first = self._columns.get(place)
            yield *place, [*(first.entries() if first is not None else ()), *self._entries.get(place, ())]
