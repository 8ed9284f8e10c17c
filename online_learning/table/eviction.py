"""Which rows go: chosen from the headers alone, so a scan reads 24 bytes a row and no embedding.

No call looks at a whole large table, or learning would stand still meanwhile: a search for expired rows goes on where
the last one ended, and the least of a table are taken from a sample that is spread all over it, each time another.
A table of no more than a sample is searched whole.
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import kernel
from online_learning.table.directory import Directory
from online_learning.table.headers import (
    COUNT_MAX,
    COUNT_SHIFT,
    HEADER_WORDS,
    LIVE,
    PROTECTED,
    SLOTS_PER_BLOCK,
    SPACE_MASK,
    counts_of,
    last_seen_s,
)
from online_learning.table.settings import EvictionPolicy, EvictionSettings

NEVER = np.uint32(0xFFFFFFFF)

SCAN = 1 << 18
"""Slots that one search for expired rows looks at: some 2 ms."""
AT_ONCE = 1 << 14
"""Rows that go at one time: some 5 ms with their tombstones."""
SAMPLE_BLOCKS = 1 << 10
"""Blocks of 64 slots that are looked at for the least."""
LEAST_AT_ONCE = SAMPLE_BLOCKS * SLOTS_PER_BLOCK // 8
"""At most one eighth of a sample goes: what is taken is then among the least of the table, too."""


def ttl_by_space(settings: EvictionSettings) -> NDArray[np.uint32]:
    """Seconds to live u32 [65536] of every key space; 2^32 - 1: for ever."""

    def seconds(ttl_s: float) -> int:
        return min(max(1, int(ttl_s)), int(NEVER)) if ttl_s > 0 else int(NEVER)

    ttl = np.full(SPACE_MASK + 1, seconds(settings.ttl_s), np.uint32)
    for space, ttl_s in settings.ttl_s_of_space.items():
        ttl[space] = seconds(ttl_s)
    return ttl


@kernel
def expired(headers, flags, begin, end, now_s, ttl, out):  # type: ignore[no-untyped-def]
    """out[:n] = slots of [begin, end) of rows not seen for their space's time to live, ascending, at most len(out).

    Returns (n, where it stopped).
    """
    found = 0
    for slot in range(begin, end):
        if flags[slot] & np.uint8(LIVE):
            word = headers[slot * HEADER_WORDS + 2]
            life = ttl[np.int64(word & np.uint64(SPACE_MASK))]
            if life != NEVER and np.int64(word >> np.uint64(32)) + np.int64(life) <= now_s:
                if found == out.shape[0]:
                    return found, slot
                out[found] = slot
                found += 1
    return found, end


@kernel
def rank(headers, flags, slots_used, first, stride, blocks, by_count, slots, ranks):  # type: ignore[no-untyped-def]
    """Candidates of `blocks` blocks from `first` on, `stride` apart: slots[:n] and ranks[:n], the lowest to go first.

    Returns n.
    """
    found = 0
    every = (slots_used + SLOTS_PER_BLOCK - 1) // SLOTS_PER_BLOCK
    for turn in range(blocks):
        block = (first + turn * stride) % every
        for slot in range(block * SLOTS_PER_BLOCK, min(slots_used, (block + 1) * SLOTS_PER_BLOCK)):
            flag = flags[slot]
            if flag & np.uint8(LIVE) and not flag & np.uint8(PROTECTED):
                word = headers[slot * HEADER_WORDS + 2]
                seen = word >> np.uint64(32)
                count = (word >> np.uint64(COUNT_SHIFT)) & np.uint64(COUNT_MAX)
                slots[found] = slot
                ranks[found] = ((count << np.uint64(32)) | seen) if by_count else ((seen << np.uint64(16)) | count)
                found += 1
    return found


def least(marks: NDArray[np.uint64], policy: EvictionPolicy, wanted: int) -> NDArray[np.int64]:
    """Positions i64 of the `wanted` rows that the policy lets go first, from their marks u64 [n]."""
    counts, seen = counts_of(marks), last_seen_s(marks)
    by_count = policy is EvictionPolicy.LFU
    ranks = counts << np.uint64(32) | seen if by_count else seen << np.uint64(16) | counts
    return np.sort(np.argpartition(ranks, wanted)[:wanted])


class Eviction:
    """The search for rows to let go; it remembers where it is."""

    def __init__(self, settings: EvictionSettings) -> None:
        self._by_count = settings.policy is EvictionPolicy.LFU
        self._ttl = ttl_by_space(settings)
        self._next = self._turn = 0

    def expired(self, directory: Directory, now_s: int, slots: int) -> NDArray[np.int64]:
        """Slots i64, ascending, of the next expired rows among the next `slots` slots; at most AT_ONCE."""
        out = np.empty(min(AT_ONCE, len(directory)), np.int64)
        used, found = directory.slots_used, 0
        left = min(slots, used)
        # Round the end: a table of no more slots than that is searched whole.
        while left > 0 and found < len(out):
            begin = self._next if self._next < used else 0
            end = min(used, begin + left)
            more, self._next = expired(directory.headers, directory.flags, begin, end, now_s, self._ttl, out[found:])
            found += more
            left -= max(1, self._next - begin)
        return np.sort(out[:found])

    def least(self, directory: Directory, wanted: int) -> NDArray[np.int64]:
        """Up to `wanted` slots i64, ascending, that the policy lets go first; protected rows never.

        Of a table beyond a sample an eighth of a sample at most; none only where all of the sample are protected.
        """
        every = -(-directory.slots_used // SLOTS_PER_BLOCK)
        blocks, stride = every, 1
        if every > SAMPLE_BLOCKS:
            blocks, stride = SAMPLE_BLOCKS, every // SAMPLE_BLOCKS
            wanted = min(wanted, LEAST_AT_ONCE)
        size = blocks * SLOTS_PER_BLOCK
        slots, ranks = np.empty(size, np.int64), np.empty(size, np.uint64)
        where = (directory.headers, directory.flags, directory.slots_used, self._turn, stride, blocks)
        found = rank(*where, self._by_count, slots, ranks)
        self._turn = (self._turn + 1) % max(1, every)
        slots, ranks = slots[:found], ranks[:found]
        if wanted >= found:
            return np.sort(slots)
        return np.sort(slots[np.argpartition(ranks, wanted)[:wanted]])
