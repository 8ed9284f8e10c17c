"""The index: 64-bit key -> slot of its row, open addressing that grows one small segment at a time.

Linear hashing (Litwin 1980) over segments of 4,096 entries, linear probing inside a segment. The index never
rehashes as a whole: once it is three quarters full, every few insertions split one segment in two (some 20 us), so
no call ever waits for more than its own share, and a lookup always reads one place. Both generations of a doubling
live side by side in one array that never moves: segments below `split` are already of the new one.

An entry is one u64: the upper half is 32 bits of the key's hash (its tag: 12 bits of position in the segment,
20 bits of segment number), the lower half is slot + 1 (0: empty). Splitting and deleting need only the entry, never
the row. The full key is in the row's header and always compared: an equal tag alone proves nothing (with n rows a
lookup meets a foreign equal tag with chance n / 2^32, and just looks on).

Cost per row at load 0.75: 8 / 0.75 = 10.67 bytes.
"""

import numpy as np

from online_learning.table.compiled import inlined, kernel
from online_learning.table.intrinsics import mix64, prefetch

SEGMENT_BITS = 12
SEGMENT = 1 << SEGMENT_BITS
MAX_LOAD = 0.75
# A doubling starts at load 3/4 and is through 1/16 of the old capacity later: one split per 256 insertions.
INSERTIONS_PER_SPLIT = SEGMENT // 16
MAX_LEVEL = 20

# Places in the index's state, i64 [4]. DUE: used entries above which the next split has to be done.
LEVEL, SPLIT, USED, DUE = 0, 1, 2, 3
HEADER_WORDS = 3

AHEAD = 16
"""Keys between asking for a cache line and reading it: what a core can have in flight. A power of two."""
BLOCK = 32
"""Keys of an insertion whose lines are asked for together; what was asked for must still be in L1 when it is read."""


def levels_for(rows: int) -> int:
    """The level (log2 of segments) at which `rows` keys fit without passing the load at which it would split."""
    level = 0
    while rows > MAX_LOAD * (SEGMENT << level):
        level += 1
    return level


def entries_for(rows: int) -> int:
    """Entries to reserve so that `rows` keys fit."""
    return SEGMENT << min(levels_for(rows) + 1, MAX_LEVEL)


@inlined
def tag_of(key, seed):  # type: ignore[no-untyped-def]
    """32 bits of the seeded hash of a key: without the seed nobody can choose keys that share a segment."""
    return mix64(key ^ seed) & np.uint64(0xFFFFFFFF)


@inlined
def segment_base(tag, level, split):  # type: ignore[no-untyped-def]
    """First entry of the segment that a tag lives in."""
    number = np.int64(tag >> np.uint64(SEGMENT_BITS))
    segment = number & ((1 << level) - 1)
    if segment < split:
        segment = number & ((1 << (level + 1)) - 1)
    return segment << SEGMENT_BITS


@inlined
def probe(entries, headers, key, tag, base):  # type: ignore[no-untyped-def]
    """(slot, place of its entry) of a key, or (-1, the empty place where it would go; -1 in a full segment)."""
    position = np.int64(tag) & (SEGMENT - 1)
    for _ in range(SEGMENT):
        entry = entries[base + position]
        if entry == np.uint64(0):
            return np.int64(-1), base + position
        if (entry >> np.uint64(32)) == tag:
            slot = np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
            if headers[slot * HEADER_WORDS] == key:
                return slot, base + position
        position = (position + 1) & (SEGMENT - 1)
    return np.int64(-1), np.int64(-1)


@inlined
def candidate(entries, tag, base):  # type: ignore[no-untyped-def]
    """The first slot whose tag is equal, unverified (what to prefetch), or -1."""
    position = np.int64(tag) & (SEGMENT - 1)
    for _ in range(SEGMENT):
        entry = entries[base + position]
        if entry == np.uint64(0):
            return np.int64(-1)
        if (entry >> np.uint64(32)) == tag:
            return np.int64(entry & np.uint64(0xFFFFFFFF)) - 1
        position = (position + 1) & (SEGMENT - 1)
    return np.int64(-1)


@kernel
def find_range(entries, state, headers, seed, keys, slots, begin, end):  # type: ignore[no-untyped-def]
    """slots[begin:end] = slots of keys[begin:end], -1 where absent."""
    # A pipeline of three stages, AHEAD keys apart: ask for the entry; read it and ask for the header; compare the key.
    level, split = state[LEVEL], state[SPLIT]
    tags = np.empty(2 * AHEAD, np.uint64)
    bases = np.empty(2 * AHEAD, np.int64)
    for i in range(begin, end + 2 * AHEAD):
        third = i - 2 * AHEAD
        if third >= begin:
            slot = slots[third]
            if slot >= 0 and headers[slot * HEADER_WORDS] != keys[third]:
                place = third & (2 * AHEAD - 1)
                slots[third], _ = probe(entries, headers, keys[third], tags[place], bases[place])
        second = i - AHEAD
        if begin <= second < end:
            place = second & (2 * AHEAD - 1)
            slot = candidate(entries, tags[place], bases[place])
            slots[second] = slot
            if slot >= 0:
                prefetch(headers, slot * HEADER_WORDS)
        if i < end:
            place = i & (2 * AHEAD - 1)
            tag = tag_of(keys[i], seed)
            base = segment_base(tag, level, split)
            tags[place] = tag
            bases[place] = base
            prefetch(entries, base + (np.int64(tag) & (SEGMENT - 1)))


@kernel
def split_one(entries, state):  # type: ignore[no-untyped-def]
    """Split the next segment: entries whose next hash bit is set move to the new segment at the end."""
    level, split = state[LEVEL], state[SPLIT]
    old = split << SEGMENT_BITS
    new = (split + (1 << level)) << SEGMENT_BITS
    held = entries[old : old + SEGMENT].copy()
    entries[old : old + SEGMENT] = np.uint64(0)
    for i in range(SEGMENT):
        entry = held[i]
        if entry != np.uint64(0):
            tag = entry >> np.uint64(32)
            base = new if (np.int64(tag >> np.uint64(SEGMENT_BITS)) >> level) & 1 else old
            position = np.int64(tag) & (SEGMENT - 1)
            while entries[base + position] != np.uint64(0):
                position = (position + 1) & (SEGMENT - 1)
            entries[base + position] = entry
    if split + 1 == (1 << level):
        state[LEVEL] = level + 1
        state[SPLIT] = 0
    else:
        state[SPLIT] = split + 1


@kernel
def grow(entries, state):  # type: ignore[no-untyped-def]
    """Do the splits that are due; without room for them the index just gets fuller."""
    while state[USED] > state[DUE]:
        room = ((1 << state[LEVEL]) + state[SPLIT] + 1) << SEGMENT_BITS
        if room > entries.shape[0] or state[LEVEL] >= MAX_LEVEL:
            state[DUE] = np.int64(1) << 62
        else:
            split_one(entries, state)
            # In the doubling from capacity C, split k happens at 3/4 C + k * INSERTIONS_PER_SPLIT insertions.
            state[DUE] = (3 * (SEGMENT << state[LEVEL]) >> 2) + state[SPLIT] * INSERTIONS_PER_SPLIT


@kernel
def erase(entries, state, place):  # type: ignore[no-untyped-def]
    """Empty one place and close the gap behind it (no deleted markers, so probes stay short: Knuth 6.4 R)."""
    base = (place >> SEGMENT_BITS) << SEGMENT_BITS
    gap = place - base
    position = gap
    for _ in range(SEGMENT - 1):
        position = (position + 1) & (SEGMENT - 1)
        entry = entries[base + position]
        if entry == np.uint64(0):
            break
        home = np.int64(entry >> np.uint64(32)) & (SEGMENT - 1)
        # An entry whose home lies cyclically behind the gap must stay where it is.
        stays = gap < home <= position if gap <= position else (gap < home or home <= position)
        if not stays:
            entries[base + gap] = entry
            gap = position
    entries[base + gap] = np.uint64(0)
    state[USED] -= 1


@kernel
def probe_histogram(entries, state, counts):  # type: ignore[no-untyped-def]
    """counts[d] += entries found d places behind their home (the last bucket holds the rest)."""
    segments = (1 << state[LEVEL]) + state[SPLIT]
    last = counts.shape[0] - 1
    for place in range(segments << SEGMENT_BITS):
        entry = entries[place]
        if entry != np.uint64(0):
            home = np.int64(entry >> np.uint64(32)) & (SEGMENT - 1)
            distance = ((place & (SEGMENT - 1)) - home) & (SEGMENT - 1)
            counts[min(distance, last)] += 1
