"""Which rows go: chosen from the headers alone, so a scan reads 24 bytes a row and no embedding."""

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import kernel
from online_learning.table.headers import (
    COUNT_MAX,
    COUNT_SHIFT,
    HEADER_WORDS,
    LIVE,
    PROTECTED,
    SPACE_MASK,
    counts_of,
    last_seen_s,
)
from online_learning.table.settings import EvictionPolicy, EvictionSettings

NEVER = np.uint32(0xFFFFFFFF)


def ttl_by_space(settings: EvictionSettings) -> NDArray[np.uint32]:
    """Seconds to live u32 [65536] of every key space; 2^32 - 1: for ever."""

    def seconds(ttl_s: float) -> int:
        return min(max(1, int(ttl_s)), int(NEVER)) if ttl_s > 0 else int(NEVER)

    ttl = np.full(SPACE_MASK + 1, seconds(settings.ttl_s), np.uint32)
    for space, ttl_s in settings.ttl_s_of_space.items():
        ttl[space] = seconds(ttl_s)
    return ttl


@kernel
def expired(headers, flags, slots_used, now_s, ttl, out):  # type: ignore[no-untyped-def]
    """out[:n] = slots of rows not seen for their space's time to live, ascending. Returns n."""
    found = 0
    for slot in range(slots_used):
        if flags[slot] & np.uint8(LIVE):
            word = headers[slot * HEADER_WORDS + 2]
            life = ttl[np.int64(word & np.uint64(SPACE_MASK))]
            if life != NEVER and np.int64(word >> np.uint64(32)) + np.int64(life) <= now_s:
                out[found] = slot
                found += 1
    return found


@kernel
def rank_all(headers, flags, slots_used, by_count, slots, ranks):  # type: ignore[no-untyped-def]
    """Candidates for eviction: slots[:n] and ranks[:n], the lowest rank to go first. Returns n."""
    found = 0
    for slot in range(slots_used):
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


def victims(
    headers: NDArray[np.uint64], flags: NDArray[np.uint8], slots_used: int, policy: EvictionPolicy, wanted: int
) -> NDArray[np.int64]:
    """Up to `wanted` slots i64, ascending, that the policy lets go first; protected rows never."""
    slots, ranks = np.empty(slots_used, np.int64), np.empty(slots_used, np.uint64)
    found = rank_all(headers, flags, slots_used, policy is EvictionPolicy.LFU, slots, ranks)
    slots, ranks = slots[:found], ranks[:found]
    if wanted >= found:
        return slots
    return np.sort(slots[np.argpartition(ranks, wanted)[:wanted]])
