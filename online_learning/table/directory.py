"""The part of a table that knows keys: index, row headers, and what is touched, in flight or unsaved.

A header is three u64 a slot: key | version | last seen in s (32 bits), count (16, saturating), space (16). Beside it
a byte of flags, and one byte per 64 slots that says where to look for flagged rows, so that the cost of collecting
what changed follows what changed and no queue has to be kept (or bounded, or lost). Slot numbers are given out in
order and reused last-freed-first; a header never moves.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.admission import ALWAYS, admits
from online_learning.table.compiled import inlined, kernel
from online_learning.table.index import (
    BLOCK,
    DUE,
    HEADER_WORDS,
    LEVEL,
    SEGMENT,
    SEGMENT_BITS,
    SPLIT,
    USED,
    candidate,
    entries_for,
    erase,
    find_range,
    grow,
    probe,
    probe_histogram,
    segment_base,
    tag_of,
)
from online_learning.table.intrinsics import prefetch
from online_learning.table.memory import Ahead, reserve
from online_learning.table.workers import Workers

# Flags of a slot, u8.
LIVE = 1
TOUCHED = 2  # changed since it was last taken for publishing
IN_FLIGHT = 4  # taken, not yet acknowledged
UNSAVED = 8  # changed since the last snapshot
PROTECTED = 16  # in the batch being inserted: not to be evicted under it

SLOTS_PER_BLOCK = 64

# Of the index's load: a doubling begins at 0.75, and its memory should be there by then.
DOUBLING_NEAR = 0.65

# Places in the directory's counters, i64 [5].
NEXT, FREE, ROWS, LIMIT, UNADMITTED = 0, 1, 2, 3, 4

# What upsert answers instead of a slot.
UNADMITTED_SLOT, REFUSED_SLOT = -1, -2

COUNT_SHIFT, SPACE_MASK, COUNT_MAX = 16, 0xFFFF, 0xFFFF


@inlined
def raise_flags(flags, blocks, slot, bits):  # type: ignore[no-untyped-def]
    """Set flags of a slot, and in its block's byte."""
    bits = np.uint8(bits)
    if flags[slot] & bits != bits:
        flags[slot] |= bits
        blocks[slot // SLOTS_PER_BLOCK] |= bits


@kernel
def upsert(  # type: ignore[no-untyped-def]
    entries,
    index_state,
    headers,
    flags,
    blocks,
    free,
    counters,
    seed,
    keys,
    spaces,
    now_s,
    version,
    policy,
    threshold,
    cut,
    sketch,
    admission_state,
    slots,
    created,
):
    """Find every key or give it a slot; created[:n] = positions in the batch that made a row. Returns n."""
    made = 0
    tags = np.empty(BLOCK, np.uint64)
    seen = np.uint64(now_s) << np.uint64(32)
    for start in range(0, keys.shape[0], BLOCK):
        size = min(BLOCK, keys.shape[0] - start)
        level, split = index_state[LEVEL], index_state[SPLIT]
        for i in range(size):
            tag = tag_of(keys[start + i], seed)
            tags[i] = tag
            prefetch(entries, segment_base(tag, level, split) + (np.int64(tag) & (SEGMENT - 1)))
        for i in range(size):
            slot = candidate(entries, tags[i], segment_base(tags[i], level, split))
            if slot >= 0:
                prefetch(headers, slot * HEADER_WORDS)
        for i in range(size):
            key = keys[start + i]
            tag = tags[i]
            base = segment_base(tag, index_state[LEVEL], index_state[SPLIT])
            slot, place = probe(entries, headers, key, tag, base)
            if slot >= 0:
                word = headers[slot * HEADER_WORDS + 2]
                count = min((word >> np.uint64(COUNT_SHIFT)) & np.uint64(COUNT_MAX), np.uint64(COUNT_MAX - 1))
                headers[slot * HEADER_WORDS + 2] = (
                    seen | ((count + np.uint64(1)) << np.uint64(COUNT_SHIFT)) | (word & np.uint64(SPACE_MASK))
                )
                raise_flags(flags, blocks, slot, UNSAVED)
                slots[start + i] = slot
                continue
            slots[start + i] = UNADMITTED_SLOT
            if policy != ALWAYS and not admits(policy, threshold, cut, sketch, admission_state, seed, key):
                counters[UNADMITTED] += 1
                continue
            if place < 0 or (counters[FREE] == 0 and counters[NEXT] >= counters[LIMIT]):
                slots[start + i] = REFUSED_SLOT
                continue
            if counters[FREE] > 0:
                counters[FREE] -= 1
                slot = np.int64(free[counters[FREE]])
            else:
                slot = counters[NEXT]
                counters[NEXT] += 1
            entries[place] = (tag << np.uint64(32)) | np.uint64(slot + 1)
            headers[slot * HEADER_WORDS] = key
            headers[slot * HEADER_WORDS + 1] = version
            headers[slot * HEADER_WORDS + 2] = seen | np.uint64(1 << COUNT_SHIFT) | np.uint64(spaces[start + i])
            flags[slot] = 0
            raise_flags(flags, blocks, slot, LIVE | TOUCHED | UNSAVED)
            counters[ROWS] += 1
            index_state[USED] += 1
            # Asked here and not in there: to hand arrays to an inlined function can cost numba atomic reference
            # counts, 30 ns a key.
            if index_state[USED] > index_state[DUE]:
                grow(entries, index_state)
            slots[start + i] = slot
            created[made] = start + i
            made += 1
    return made


@kernel
def drop(entries, index_state, headers, flags, free, counters, seed, keys, dropped):  # type: ignore[no-untyped-def]
    """Free the slots of the keys that are there; dropped[i] = the slot freed, or -1."""
    level, split = index_state[LEVEL], index_state[SPLIT]
    for i in range(keys.shape[0]):
        if i + BLOCK < keys.shape[0]:
            ahead = tag_of(keys[i + BLOCK], seed)
            prefetch(entries, segment_base(ahead, level, split) + (np.int64(ahead) & (SEGMENT - 1)))
        tag = tag_of(keys[i], seed)
        slot, place = probe(entries, headers, keys[i], tag, segment_base(tag, level, split))
        dropped[i] = slot
        if slot >= 0:
            erase(entries, index_state, place)
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
        self.entries: NDArray[np.uint64] = reserve(entries_for(reserved), np.uint64)
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
        workers.run(find_range, len(keys), self.entries, self.index_state, self.headers, self.seed, keys, slots)
        return slots

    def upsert(
        self,
        keys: NDArray[np.uint64],
        spaces: NDArray[np.uint16],
        now_s: int,
        version: int,
        admission: tuple[Any, ...],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(slots i64 [n], positions in the batch that made a row, in order); -1: not admitted, -2: no room."""
        slots = np.empty(len(keys), np.int64)
        created = np.empty(len(keys), np.int64)
        made = upsert(
            self.entries,
            self.index_state,
            self.headers,
            self.flags,
            self.blocks,
            self._free,
            self.counters,
            self.seed,
            keys,
            spaces,
            np.uint64(now_s),
            np.uint64(version),
            *admission,
            slots,
            created,
        )
        return slots, created[:made]

    def drop(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Free the rows of keys u64 [n]; the slots i64 [n] they had, -1 where there was none."""
        dropped = np.empty(len(keys), np.int64)
        drop(
            self.entries,
            self.index_state,
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
        ahead.add(self.headers, HEADER_WORDS)
        ahead.add(self.flags, 1)

    def keep_index_ahead(self, ahead: Ahead) -> None:
        """Shortly before a doubling begins, have the memory that it will fill made ready."""
        capacity = SEGMENT << int(self.index_state[LEVEL])
        if self._doubling < capacity and self.index_state[USED] > DOUBLING_NEAR * capacity > Ahead.SMALLEST:
            self._doubling = capacity
            ahead.soon(self.entries, capacity, 2 * capacity)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index in use."""
        segments = (1 << int(self.index_state[LEVEL])) + int(self.index_state[SPLIT])
        return (segments << SEGMENT_BITS) * self.entries.itemsize

    def probe_lengths(self) -> tuple[float, int]:
        """(mean, longest) number of places between an entry's home and where it is; 255 stands for any more."""
        histogram = np.zeros(256, np.int64)
        probe_histogram(self.entries, self.index_state, histogram)
        mean = float((histogram * np.arange(256)).sum() / max(1, histogram.sum()))
        return mean, int(np.flatnonzero(histogram).max(initial=0))

    @property
    def load(self) -> float:
        """Used share of the index's places."""
        return int(self.index_state[USED]) / (self.index_bytes / self.entries.itemsize)


def last_seen_s(marks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Seconds since the epoch at which rows were last seen."""
    return marks >> np.uint64(32)


def counts_of(marks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How often rows were seen, at most 65,535."""
    return (marks >> np.uint64(COUNT_SHIFT)) & np.uint64(COUNT_MAX)


def spaces_of(marks: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Key spaces of rows."""
    return (marks & np.uint64(SPACE_MASK)).astype(np.uint16)
