"""Records of one batch, gathered by topic and partition, to be sent in one transaction."""

from collections.abc import Callable, Iterator, Sequence
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
        self._first: dict[tuple[str, int], Callable[[], Columns]] = {}

    def __bool__(self) -> bool:
        return bool(self._entries or self._first)

    def count(self) -> int:
        """How many records are in it, beside those that are yet to be made."""
        return sum(map(len, self._entries.values()))

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

    def put_first(self, topic: str, partition: int, make: Callable[[], Columns]) -> None:
        """Adds records that go before all others of their partition, and are made when they are asked for, once."""
        self._first[topic, partition] = make

    def columns(self) -> Iterator[tuple[str, int, Columns]]:
        """The records by topic and partition: of one partition in their order, though not all at once."""
        for (topic, partition), make in self._first.items():
            yield topic, partition, make()
        for (topic, partition), entries in self._entries.items():
            yield topic, partition, columns_of(entries)

    def __iter__(self) -> Iterator[tuple[str, int, list[Entry]]]:
        for place in {**self._first, **self._entries}:
            first = self._first[place]().entries() if place in self._first else ()
            yield *place, [*first, *self._entries.get(place, ())]
