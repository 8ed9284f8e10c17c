"""Records of one batch, gathered by topic and partition, to be sent in one transaction."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

from streams.columns import Columns, Entry, columns_of
from streams.topics import Topic


@lru_cache(maxsize=200_000)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Java's default partitioner gives a key (murmur2)."""
    return int(_murmur2(np.frombuffer(key, dtype=np.uint8))) % partitions


@njit(cache=True)
def _murmur2(key: Any) -> int:
    """The hash of a key, u8 [n], as Java's client takes it: MurmurHash2 of 32 bits (Austin Appleby), without its sign.

    In Python it takes 4 us a key and here 1; a user who was not heard of for long costs two.
    """
    mask, multiplier, size = 0xFFFFFFFF, 0x5BD1E995, len(key)
    hashed: Any = (0x9747B28C ^ size) & mask
    whole = size - size % 4
    for at in range(0, whole, 4):
        word = key[at] | (key[at + 1] << 8) | (key[at + 2] << 16) | (key[at + 3] << 24)
        word = (word * multiplier) & mask
        word = ((word ^ (word >> 24)) * multiplier) & mask
        hashed = ((hashed * multiplier) & mask) ^ word
    if size > whole:
        for at in range(whole, size):
            hashed ^= np.int64(key[at]) << (8 * (at - whole))
        hashed = (hashed * multiplier) & mask
    hashed = ((hashed ^ (hashed >> 13)) * multiplier) & mask
    return int((hashed ^ (hashed >> 15)) & 0x7FFFFFFF)


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
