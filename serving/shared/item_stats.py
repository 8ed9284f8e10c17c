"""Decayed counts per item and arm in shared memory, one cache line each under its own sequence lock."""

import mmap
from collections.abc import Collection
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_learning.models.dense_features import ITEM_STATS, decayed_item_stats
from serving.shared import seqlock
from serving.shared.files import PAGE_BYTES, NewFile, Words, map_read, wait_for_writer
from serving.shared.head import File, HeadWriter

ORGANIC: Final = ""
"""The arm of what no arm brought about; it counts for every arm."""

COLUMNS: Final = len(ITEM_STATS)
# sequence, at, available_at, six f32, and padding to a cache line.
_STRIDE: Final = 8
_AT, _AVAILABLE_AT, _VALUES = 1, 2, 3
_SPINS = 2_000


class _Header(msgspec.Struct, frozen=True):
    """The first pages, as JSON behind a word that says how many bytes they are."""

    incarnation: int
    slots: int
    arms: list[str]
    ttl_ms: int


@njit(cache=True)
def _write(words, floats, rows, at, available_at, values):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        base = rows[i] * _STRIDE
        seqlock.write_begin(words, base)
        words[base + _AT] = np.uint64(at[i])
        words[base + _AVAILABLE_AT] = np.uint64(available_at[i])
        for column in range(values.shape[1]):
            floats[2 * (base + _VALUES) + column] = values[i, column]
        seqlock.write_end(words, base)


@njit(cache=True, nogil=True)
def _read(words, floats, first, slots, at, available_at, values, only_busy):  # type: ignore[no-untyped-def]
    """Rows of slots; `at` is -1 where one was busy all the time. With `only_busy` just those; how many are."""
    busy = 0
    for i in range(slots.shape[0]):
        if only_busy and at[i] != -1:
            continue
        base = (first + slots[i]) * _STRIDE
        at[i], available_at[i] = -1, 0
        for _ in range(_SPINS):
            before = seqlock.load_acquire(words, base)
            if before & np.uint64(1):
                continue
            when, since = np.int64(words[base + _AT]), np.int64(words[base + _AVAILABLE_AT])
            for column in range(values.shape[1]):
                values[i, column] = floats[2 * (base + _VALUES) + column]
            if seqlock.read_again(words, base) == before:
                at[i], available_at[i] = when, since
                break
        busy += at[i] == -1
    return busy


class ItemStatsWriter:
    """The replica's side; grows and shrinks by new generations."""

    def __init__(self, head: HeadWriter, incarnation: int, ttl_ms: int) -> None:
        self._head = head
        self._header = _Header(incarnation, 0, [], ttl_ms)
        self._words: Words = np.empty(0, np.uint64)
        self._floats: NDArray[np.float32] = np.empty(0, np.float32)
        self.make_room(1024, (ORGANIC,))

    def make_room(self, slots: int, arms: tuple[str, ...] = ()) -> None:
        """Makes sure that `slots` items and the arms fit. Raises SharedMemoryFull."""
        known = self._header
        missing = [arm for arm in arms if arm not in known.arms]
        if slots <= known.slots and not missing:
            return
        size = known.slots if slots <= known.slots else max(slots, 2 * known.slots)
        self._make(size, known.arms + missing)

    def keep(self, arms: Collection[str]) -> None:
        """Drops the rows of all arms but these and the organic one. Raises SharedMemoryFull."""
        left = [arm for arm in self._header.arms if arm == ORGANIC or arm in arms]
        if len(left) < len(self._header.arms):
            self._make(self._header.slots, left)

    def _make(self, size: int, arms: list[str]) -> None:
        """A new generation with the rows that both have."""
        known = self._header
        header = _Header(known.incarnation, size, arms, known.ttl_ms)
        text = msgspec.json.encode(header)
        header_bytes = -(-(8 + len(text)) // PAGE_BYTES) * PAGE_BYTES
        file = NewFile(self._head.next_path(File.ITEM_STATS), header_bytes + len(header.arms) * size * _STRIDE * 8)
        file.words[0] = header_bytes
        file.map[8 : 8 + len(text)] = text
        words = file.words[header_bytes // 8 :]
        for place, arm in enumerate(arms):
            if arm in known.arms:
                was = known.arms.index(arm) * known.slots * _STRIDE
                old = self._words[was : was + known.slots * _STRIDE]
                words[place * size * _STRIDE : place * size * _STRIDE + len(old)] = old
        file.publish()
        self._head.advance(File.ITEM_STATS)
        self._header, self._words, self._floats = header, words, words.view(np.float32)

    def write(
        self,
        slots: NDArray[np.int64],
        arms: list[str],
        values: NDArray[np.float32],
        at: NDArray[np.int64],
        available_at: NDArray[np.int64],
    ) -> None:
        """Writes rows of (slot, arm): values f32 [n, 6] that hold at `at` [n] (ms), known since `available_at` [n]."""
        if not len(slots):
            return
        self.make_room(int(slots.max()) + 1, tuple(dict.fromkeys(arms)))
        place = {arm: k * self._header.slots for k, arm in enumerate(self._header.arms)}
        rows = slots + np.array([place[arm] for arm in arms], np.int64)
        _write(self._words, self._floats, rows, at, available_at, np.require(values, np.float32, ("C", "W")))


class ItemStats:
    """One mapped generation, for readers."""

    def __init__(self, mapped: mmap.mmap, folder: Path) -> None:
        self._folder = folder
        header_bytes = int.from_bytes(mapped[:8], "little")
        header = msgspec.json.decode(mapped[8:header_bytes].rstrip(b"\0"), type=_Header)
        self.incarnation, self.slots, self.arms = header.incarnation, header.slots, header.arms
        self._ttl_ms = header.ttl_ms
        self._words: Words = np.frombuffer(mapped, np.uint64)[header_bytes // 8 :]
        self._floats: NDArray[np.float32] = self._words.view(np.float32)

    def read(self, slots: NDArray[np.int64], arm: str, now_ms: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(f32 [k, 6] in the order of ITEM_STATS, i64 [k]): the arm's row and the organic row of each slot, brought to
        `now_ms` and added; NaN where there is neither. The second is when the newer of the two became available (ms,
        0: neither). Rows older than their time to live are none."""
        total = np.full((len(slots), COLUMNS), np.nan, np.float32)
        newest = np.zeros(len(slots), np.int64)
        plain = np.require(slots, np.int64, ("C", "W"))
        for name in dict.fromkeys((arm, ORGANIC)):
            if name in self.arms:
                self._add(self.arms.index(name) * self.slots, plain, now_ms, total, newest)
        return total, newest

    def _add(
        self,
        first: int,
        slots: NDArray[np.int64],
        now_ms: int,
        total: NDArray[np.float32],
        newest: NDArray[np.int64],
    ) -> None:
        at, available_at = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
        values = np.empty((len(slots), COLUMNS), np.float32)

        def look(only_busy: bool) -> int:
            return int(_read(self._words, self._floats, first, slots, at, available_at, values, only_busy))

        if look(False):
            wait_for_writer(lambda: look(True), self._folder)
        there = (at > 0) & (now_ms - at <= self._ttl_ms)
        now = decayed_item_stats(values, at, now_ms)
        total[there] = np.nan_to_num(total[there]) + now[there]
        newest[there] = np.maximum(newest[there], available_at[there])


def map_item_stats(path: Path) -> ItemStats:
    """Maps a generation. Raises FileNotFoundError."""
    return ItemStats(map_read(path), path.parent)
