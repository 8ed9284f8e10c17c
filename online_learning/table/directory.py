"""The part of a table that knows keys: index, row headers, and what is touched, in flight or unsaved.

Slot numbers are given out in order and reused last-freed-first; a header never moves.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.admission import ALWAYS
from online_learning.table.compiled import kernel
from online_learning.table.headers import (
    HEADER_WORDS,
    IN_FLIGHT,
    LIVE,
    SLOTS_PER_BLOCK,
    TOUCHED,
    UNSAVED,
    raise_flags,
)
from online_learning.table.index import (
    DUE,
    INSERTIONS_PER_SPLIT,
    LEVEL,
    LINE_BYTES,
    LINE_WORDS,
    MAX_LOAD,
    PLACES,
    SEGMENT,
    SEGMENT_LINES,
    SPLIT,
    USED,
    erase,
    find_range,
    hash_of,
    line_of,
    probe,
    probe_histogram,
    split_range,
    splits_done,
    splits_due,
    words_for,
)
from online_learning.table.intrinsics import prefetch, prefetch_far
from online_learning.table.memory import WRITER_WORDS, WRITTEN, Ahead, populate, reserve
from online_learning.table.upsert import (
    BLOCK,
    CHUNK,
    FREE,
    LIMIT,
    NEXT,
    PARTS,
    ROWS,
    enter_parts,
    hash_range,
    note_repeated,
    take_slots,
    upsert,
    write_range,
)
from online_learning.table.workers import Workers

SLOT_BYTES = HEADER_WORDS * 8 + 1 + 1 / SLOTS_PER_BLOCK
"""Bytes of a slot's header and flags."""
MOST_BYTES = math.ceil(SLOT_BYTES + 4 + LINE_BYTES / PLACES / (MAX_LOAD / 2))
"""Bytes that a key takes here at most: once freed, and its share of an index that has just doubled."""

# Of the index's load: a doubling begins at 0.75, and its memory should be there by then.
DOUBLING_NEAR = 0.65

# Segments made at once from which on their memory is taken before, in huge pages.
MANY_SPLITS = 64

# Keys in a call from which on sharing them among threads saves more than it costs.
SHARED_FROM = 1 << 13


@kernel
def drop(entries, numbers, index_state, headers, flags, free, counters, seed, keys, dropped):  # type: ignore[no-untyped-def]
    """Free the slots of the keys that are there; dropped[i] = the slot freed, or -1."""
    level, split = index_state[LEVEL], index_state[SPLIT]
    for i in range(keys.shape[0]):
        if i + BLOCK < keys.shape[0]:
            prefetch_far(entries, line_of(hash_of(keys[i + BLOCK], seed), level, split) << 3)
        hashed = hash_of(keys[i], seed)
        slot, word = probe(entries, numbers, hashed, line_of(hashed, level, split))
        dropped[i] = slot
        if slot >= 0:
            erase(entries, numbers, index_state, word)
            headers[slot * HEADER_WORDS] = np.uint64(0)
            flags[slot] = 0
            free[counters[FREE]] = np.uint32(slot)
            counters[FREE] += 1
            counters[ROWS] -= 1


@kernel
def touch(headers, flags, blocks, slots, version):  # type: ignore[no-untyped-def]
    """Stamp the rows with a version and mark them touched; slots of -1 are passed over."""
    for i in range(slots.shape[0]):
        if i + 16 < slots.shape[0] and slots[i + 16] >= 0:
            prefetch(headers, slots[i + 16] * HEADER_WORDS)
        slot = slots[i]
        if slot >= 0:
            headers[slot * HEADER_WORDS + 1] = version
            raise_flags(flags, blocks, slot, TOUCHED | UNSAVED)


@kernel
def collect(flags, blocks, slots_used, bit, raised, limit, start_block, out):  # type: ignore[no-untyped-def]
    """Take up to `limit` slots that carry `bit`, from a block on and around; clear it, raise `raised` instead.

    Returns (slots taken, block to go on from). A block is left flagged while it holds flagged rows.
    """
    taken = 0
    used_blocks = (slots_used + SLOTS_PER_BLOCK - 1) // SLOTS_PER_BLOCK
    bit, raised = np.uint8(bit), np.uint8(raised)
    rest_of = np.uint8(0xFF) ^ bit
    block = start_block if start_block < used_blocks else 0
    for _ in range(used_blocks):
        if blocks[block] & bit:
            first = block * SLOTS_PER_BLOCK
            rest = False
            for slot in range(first, min(first + SLOTS_PER_BLOCK, slots_used)):
                if flags[slot] & bit:
                    if taken == limit:
                        rest = True
                        break
                    flags[slot] = (flags[slot] & rest_of) | raised
                    out[taken] = slot
                    taken += 1
            if rest:
                return taken, block
            blocks[block] &= rest_of
        block = block + 1 if block + 1 < used_blocks else 0
    return taken, block


@kernel
def settle(headers, flags, blocks, slots, version, again):  # type: ignore[no-untyped-def]
    """Acknowledge rows in flight up to a version (or, with `again`, mark them touched once more)."""
    settled = 0
    for i in range(slots.shape[0]):
        slot = slots[i]
        if slot >= 0 and flags[slot] & np.uint8(IN_FLIGHT) and headers[slot * HEADER_WORDS + 1] <= version:
            flags[slot] &= np.uint8(0xFF ^ IN_FLIGHT)
            settled += 1
            if again:
                raise_flags(flags, blocks, slot, TOUCHED)
    return settled


class Directory:
    """Keys and headers of up to `reserved` slots, of which `limit` may be used.

    Arrays (views into reservations, never moved): `headers` u64 [3 * reserved], `flags` u8 [reserved].
    """

    def __init__(self, reserved: int, limit: int, seed: int) -> None:
        self.seed = np.uint64(seed)
        self.entries: NDArray[np.uint64] = reserve(words_for(reserved), np.uint64)
        # The same memory: the slots of a line's entries stand behind its hashes.
        self.numbers: NDArray[np.uint32] = self.entries.view(np.uint32)
        self.index_state = np.zeros(4, np.int64)
        self.index_state[DUE] = 3 * SEGMENT // 4
        self.headers: NDArray[np.uint64] = reserve(reserved * HEADER_WORDS, np.uint64)
        self.flags: NDArray[np.uint8] = reserve(reserved, np.uint8)
        self.blocks: NDArray[np.uint8] = reserve(-(-reserved // SLOTS_PER_BLOCK), np.uint8)
        self.counters = np.zeros(5, np.int64)
        self.counters[LIMIT] = limit
        self._free: NDArray[np.uint32] = reserve(reserved, np.uint32)
        self._cursor = 0
        self._doubling = 0
        self._splitting = np.zeros(WRITER_WORDS, np.int64)
        self._ahead = Ahead()

    def __len__(self) -> int:
        return int(self.counters[ROWS])

    @property
    def slots_used(self) -> int:
        """Slots ever given out: live ones and freed ones."""
        return int(self.counters[NEXT])

    @property
    def room(self) -> int:
        """Rows that can still be made."""
        return int(self.counters[FREE] + self.counters[LIMIT] - self.counters[NEXT])

    def find(self, keys: NDArray[np.uint64], workers: Workers) -> NDArray[np.int64]:
        """Slots i64 [n] of keys u64 [n]; -1: absent."""
        slots = np.empty(len(keys), np.int64)
        workers.run(find_range, len(keys), *self.index, self.seed, keys, slots)
        return slots

    @property
    def index(self) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
        """What kernels need to look a key up: entries, the same as u32, and the index's state."""
        return self.entries, self.numbers, self.index_state

    def upsert(
        self,
        keys: NDArray[np.uint64],
        spaces: NDArray[np.uint16],
        now_s: int,
        version: int,
        admission: tuple[Any, ...],
        workers: Workers | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(slots i64 [n], positions in the batch that made a row, in order); -1: not admitted, -2: no room.

        The outcome does not depend on `workers`, which share long batches.
        """
        slots = np.empty(len(keys), np.int64)
        created = np.empty(len(keys), np.int64)
        start = made_so_far = 0
        while start < len(keys):
            rest, chunk = len(keys) - start, min(CHUNK, (SEGMENT << int(self.index_state[LEVEL])) // 16)
            shared = workers is not None and workers.threads > 1 and min(chunk, rest) >= SHARED_FROM
            # Equal chunks: a small one that is left over would be worth no sharing.
            end = start + (-(-rest // -(-rest // chunk)) if shared else min(rest, SHARED_FROM))
            part = (keys[start:end], spaces[start:end], np.uint64(now_s), np.uint64(version), admission)
            if shared:
                assert workers is not None
                made = self._upsert_shared(*part, slots[start:end], workers)
            else:
                made = self._upsert_serial(*part, slots[start:end])
            np.add(made, start, out=created[made_so_far : made_so_far + len(made)])
            made_so_far += len(made)
            start = end
        return slots, created[:made_so_far]

    def _upsert_serial(
        self,
        keys: NDArray[np.uint64],
        spaces: NDArray[np.uint16],
        now_s: np.uint64,
        version: np.uint64,
        admission: tuple[Any, ...],
        slots: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        created = np.empty(len(keys), np.int64)
        made = upsert(
            *self.index,
            self.headers,
            self.flags,
            self.blocks,
            self._free,
            self.counters,
            self.seed,
            keys,
            spaces,
            now_s,
            version,
            *admission,
            slots,
            created,
        )
        return created[:made]

    def _upsert_shared(
        self,
        keys: NDArray[np.uint64],
        spaces: NDArray[np.uint16],
        now_s: np.uint64,
        version: np.uint64,
        admission: tuple[Any, ...],
        slots: NDArray[np.int64],
        workers: Workers,
    ) -> NDArray[np.int64]:
        """A chunk by several threads: the steps of upsert.py."""
        size = len(keys)
        # Admission counts sightings in their order, and a full table has its own rules: then absent keys take the
        # serial way, behind all that are there.
        inserting = admission[0] == ALWAYS and self.room >= size
        marks = (self.headers, self.flags, self.blocks)
        hashes, places = np.empty(size, np.uint64), np.empty(size, np.int64)
        workers.run(hash_range, size, self.seed, keys, hashes)
        own, entered = np.empty((PARTS, size + 1), np.uint32), np.zeros(PARTS, np.int64)
        workers.run(
            enter_parts,
            PARTS,
            *self.index,
            *marks,
            hashes,
            now_s,
            inserting,
            slots,
            places,
            own,
            entered,
            piece=1,
        )
        self.index_state[USED] += entered.sum()
        created, repeated = np.empty(size, np.int64), np.empty(size, np.int64)
        made, again, missing = take_slots(self._free, self.counters, slots, created, repeated)
        created = created[:made]
        self._ahead.fill(self.slots_used, made, workers)
        workers.run(write_range, made, self.numbers, *marks, keys, spaces, now_s, version, slots, places, created)
        note_repeated(*marks, slots, repeated[:again], now_s)
        self._grow(workers)
        if missing:
            absent = np.flatnonzero(slots == -1)
            slots_of_absent = np.empty(len(absent), np.int64)
            more = self._upsert_serial(keys[absent], spaces[absent], now_s, version, admission, slots_of_absent)
            slots[absent] = slots_of_absent
            created = np.union1d(created, absent[more])
        return created

    def prepare(self, rows: int, workers: Workers) -> None:
        """Have index, headers and flags of `rows` rows in memory before they come."""
        state = self.index_state
        populate(self.entries, 0, min(len(self.entries), words_for(rows) // 2), workers)
        used, state[USED] = int(state[USED]), max(rows, int(state[USED]))
        self._grow(workers)
        state[USED] = used
        self._doubling = max(self._doubling, SEGMENT << int(state[LEVEL]))
        used = self.slots_used
        if rows > used:
            populate(self.headers, used * HEADER_WORDS, rows * HEADER_WORDS, workers)
            populate(self.flags, used, rows, workers)

    def _grow(self, workers: Workers) -> None:
        """Do the splits of the index that are due, by several threads."""
        state = self.index_state
        while state[USED] > state[DUE]:
            count = splits_due(state, len(self.entries))
            level, split = int(state[LEVEL]), int(state[SPLIT])
            if count >= MANY_SPLITS:
                first = ((1 << level) + split) * SEGMENT_LINES * LINE_WORDS
                populate(self.entries, first, first + count * SEGMENT_LINES * LINE_WORDS, workers)
            workers.run(split_range, count, self.entries, self.numbers, level, split, piece=16)
            splits_done(state, count)

    def drop(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Free the rows of keys u64 [n]; the slots i64 [n] they had, -1 where there was none."""
        dropped = np.empty(len(keys), np.int64)
        drop(
            *self.index,
            self.headers,
            self.flags,
            self._free,
            self.counters,
            self.seed,
            keys,
            dropped,
        )
        return dropped

    def touch(self, slots: NDArray[np.int64], version: int) -> None:
        """Stamp rows with a version and mark them touched and unsaved."""
        touch(self.headers, self.flags, self.blocks, slots, np.uint64(version))

    def take_touched(self, limit: int) -> NDArray[np.int64]:
        """Up to `limit` touched slots, now in flight; takes turns over the table, so that none starves."""
        out = np.empty(max(0, min(limit, len(self))), np.int64)
        taken, self._cursor = collect(
            self.flags, self.blocks, self.slots_used, TOUCHED, IN_FLIGHT, len(out), self._cursor, out
        )
        return out[:taken]

    def take_unsaved(self) -> NDArray[np.int64]:
        """All slots changed since the last call, ascending."""
        out = np.empty(len(self), np.int64)
        taken, _ = collect(self.flags, self.blocks, self.slots_used, UNSAVED, 0, len(out), 0, out)
        return out[:taken]

    def settle(self, slots: NDArray[np.int64], version: int, *, again: bool = False) -> int:
        """Forget that rows are in flight up to `version` (`again`: they failed, touch them); how many."""
        return int(settle(self.headers, self.flags, self.blocks, slots, np.uint64(version), again))

    def flagged(self, bits: int) -> NDArray[np.int64]:
        """Live slots that carry any of `bits`, ascending."""
        flags = self.flags[: self.slots_used]
        return np.flatnonzero((flags & np.uint8(bits) != 0) & (flags & np.uint8(LIVE) != 0))

    def live(self) -> NDArray[np.int64]:
        """Slots i64 of all rows, ascending."""
        return np.flatnonzero(self.flags[: self.slots_used] & np.uint8(LIVE))

    def header(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """(keys, versions, marks) u64 [n] of slots; marks hold last seen, count and space."""
        words = self.headers.reshape(-1, HEADER_WORDS)[slots]
        return words[:, 0].copy(), words[:, 1].copy(), words[:, 2].copy()

    def keep_ahead(self, ahead: Ahead) -> None:
        """Have the memory of headers and flags kept ahead of the rows."""
        self._ahead = ahead
        ahead.add(self.headers, HEADER_WORDS)
        ahead.add(self.flags, 1)

    def keep_index_ahead(self, ahead: Ahead) -> None:
        """Shortly before a doubling begins, have the memory that it will fill made ready."""
        level = int(self.index_state[LEVEL])
        self._splitting[WRITTEN] = self._segments
        capacity, segments = SEGMENT << level, 1 << level
        if self._doubling < capacity and self.index_state[USED] > DOUBLING_NEAR * capacity > Ahead.SMALLEST:
            self._doubling = capacity
            words = SEGMENT_LINES * LINE_WORDS
            near = Ahead.NEAR // INSERTIONS_PER_SPLIT
            ahead.soon(self.entries, segments * words, 2 * segments * words, words, near, self._splitting)

    @property
    def _segments(self) -> int:
        return (1 << int(self.index_state[LEVEL])) + int(self.index_state[SPLIT])

    @property
    def index_bytes(self) -> int:
        """Bytes of the index in use."""
        return self._segments * SEGMENT_LINES * LINE_BYTES

    @property
    def load(self) -> float:
        """Used share of the index's places."""
        return int(self.index_state[USED]) / (self._segments * SEGMENT)

    def probe_lengths(self) -> tuple[float, int]:
        """(mean, longest) number of lines between an entry's home and where it is; 255 stands for any more."""
        histogram = np.zeros(256, np.int64)
        probe_histogram(self.entries, self.index_state, histogram)
        mean = float((histogram * np.arange(256)).sum() / max(1, histogram.sum()))
        return mean, int(np.flatnonzero(histogram).max(initial=0))
