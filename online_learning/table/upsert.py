"""Finding many keys and giving those that are absent a slot: one after the other, or by several threads at once.

Both give the same slots, headers and order of creation. By several threads, a chunk of a batch goes through this:
1. every key is hashed (threads share the chunk);
2. the keys of each part of the index are found or entered under a provisional number, the key's place in the chunk;
   threads share the parts. Part and segment depend on the same bits of the hash, so no two threads ever meet in a
   segment, and equal keys meet one thread, in their order: no lock, and exact counts;
3. new keys get their slots in the chunk's order (one thread: a pass over numbers);
4. index and headers are given the slots (threads share what was made).
"""

import numpy as np

from online_learning.table.admission import ALWAYS, admits
from online_learning.table.compiled import inlined, kernel
from online_learning.table.headers import HEADER_WORDS, note_sighting, write_header
from online_learning.table.index import (
    DUE,
    LEVEL,
    SEGMENT_BITS,
    SPLIT,
    USED,
    grow,
    hash_of,
    line_of,
    number_place,
    probe,
    put,
)
from online_learning.table.intrinsics import prefetch, prefetch_far
from online_learning.table.settings import MAX_ROWS

# Places in a directory's counters, i64 [5].
NEXT, FREE, ROWS, LIMIT, UNADMITTED = 0, 1, 2, 3, 4

# What an insertion answers instead of a slot.
UNADMITTED_SLOT, REFUSED_SLOT = -1, -2

PART_BITS = 2
PARTS = 1 << PART_BITS
"""Parts of the index that threads take in turns; a power of two, of segments."""
CHUNK = 1 << 16
"""Keys at most that are entered before the index grows again. Less than a sixteenth of its places, so that until then
it does not pass load 0.82."""
FIRST_PROVISIONAL = MAX_ROWS
"""Slots are below it; above it there is room for a chunk of provisional ones in 32 bits."""

AHEAD = 32
"""New rows between asking for the line of their entry and writing it."""
BLOCK = 32
"""Keys whose lines are asked for together."""


@inlined
def take_slot(free, counters):  # type: ignore[no-untyped-def]
    """The slot for a new row: the one freed last, else the next that was never given out. There must be one."""
    counters[ROWS] += 1
    if counters[FREE] > 0:
        counters[FREE] -= 1
        return np.int64(free[counters[FREE]])
    counters[NEXT] += 1
    return counters[NEXT] - 1


@kernel
def upsert(  # type: ignore[no-untyped-def]
    entries,
    numbers,
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
    hashes = np.empty(BLOCK, np.uint64)
    for start in range(0, keys.shape[0], BLOCK):
        size = min(BLOCK, keys.shape[0] - start)
        level, split = index_state[LEVEL], index_state[SPLIT]
        for i in range(size):
            hashed = hash_of(keys[start + i], seed)
            hashes[i] = hashed
            prefetch(entries, line_of(hashed, level, split) << 3)
        for i in range(size):
            slot, _ = probe(entries, numbers, hashes[i], line_of(hashes[i], level, split))
            if slot >= 0:
                prefetch(headers, slot * HEADER_WORDS + 2)
                prefetch(flags, slot)
        for i in range(size):
            hashed = hashes[i]
            line = line_of(hashed, index_state[LEVEL], index_state[SPLIT])
            slot, word = probe(entries, numbers, hashed, line)
            if slot >= 0:
                note_sighting(headers, flags, blocks, slot, now_s)
                slots[start + i] = slot
                continue
            slots[start + i] = UNADMITTED_SLOT
            if policy != ALWAYS and not admits(policy, threshold, cut, sketch, admission_state, seed, keys[start + i]):
                counters[UNADMITTED] += 1
                continue
            if word < 0 or (counters[FREE] == 0 and counters[NEXT] >= counters[LIMIT]):
                slots[start + i] = REFUSED_SLOT
                continue
            slot = take_slot(free, counters)
            put(entries, numbers, word, hashed, slot + 1)
            write_header(headers, flags, blocks, slot, keys[start + i], version, now_s, spaces[start + i])
            index_state[USED] += 1
            # Asked here and not in there: to hand arrays to an inlined function can cost numba atomic reference
            # counts, 30 ns a key.
            if index_state[USED] > index_state[DUE]:
                grow(entries, numbers, index_state)
            slots[start + i] = slot
            created[made] = start + i
            made += 1
    return made


@kernel
def hash_range(seed, keys, hashes, begin, end):  # type: ignore[no-untyped-def]
    """Step 1: hashes[begin:end] of keys[begin:end]."""
    for i in range(np.uint64(begin), np.uint64(end)):
        hashes[i] = hash_of(keys[i], seed)


@kernel
def enter_parts(  # type: ignore[no-untyped-def]
    entries,
    numbers,
    index_state,
    headers,
    flags,
    blocks,
    hashes,
    now_s,
    inserting,
    slots,
    places,
    own,
    entered,
    begin,
    end,
):
    """Step 2 for parts [begin, end) of the index.

    slots[i] = the slot of a key that is there (its sighting noted); -3 - j for a new one that stands first at place j
    of the chunk, whose number is at places[j] of `numbers`; -1 for one that is absent (not `inserting`, or its segment
    is full). entered[part] = entries made; own u32 [PARTS, n + 1] is scratch.

    By blocks of keys: while one is looked up, the lines of the next are asked for, and what is noted of the rows of a
    block is noted while the one behind it is looked up.
    """
    level, split = index_state[LEVEL], index_state[SPLIT]
    # Places are unsigned here: numba tests every signed one for being counted from the end.
    block = np.uint64(BLOCK)
    words, found = np.empty(2 * BLOCK, np.int64), np.empty(2 * BLOCK, np.int64)
    for part in range(begin, end):
        mine = own[part]
        count, made = np.uint64(0), 0
        for i in range(np.uint64(hashes.shape[0])):
            # Without a branch: of four parts, it would be guessed wrong every third time.
            mine[count] = i
            count += np.uint64((hashes[i] >> np.uint64(SEGMENT_BITS)) & np.uint64(PARTS - 1) == np.uint64(part))
        start, size, half, noted = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        while True:
            older, before, older_half = size, start - size, block - half
            size = min(block, count - start)
            for j in range(size):
                words[half + j] = line_of(hashes[mine[start + j]], level, split) << 3
            if older == 0:
                for j in range(size):
                    prefetch_far(entries, words[half + j])
            seen = np.uint64(0)
            for j in range(older):
                # Behind the last key these are words of blocks before: asked for in vain.
                prefetch_far(entries, words[half + j])
                place = np.uint64(mine[before + j])
                hashed = hashes[place]
                slot, word = probe(entries, numbers, hashed, words[older_half + j] >> 3)
                if slot >= FIRST_PROVISIONAL:
                    slots[place] = -3 - (slot - FIRST_PROVISIONAL)
                elif slot >= 0:
                    slots[place] = slot
                    prefetch_far(headers, slot * HEADER_WORDS + 2)
                    prefetch_far(flags, slot)
                    found[half + seen] = slot
                    seen += np.uint64(1)
                elif inserting and word >= 0:
                    put(entries, numbers, word, hashed, FIRST_PROVISIONAL + np.int64(place) + 1)
                    places[place] = number_place(word)
                    slots[place] = -3 - np.int64(place)
                    made += 1
                else:
                    slots[place] = -1
            for j in range(noted):
                note_sighting(headers, flags, blocks, found[older_half + j], now_s)
            noted = seen
            if size == 0 and older == 0:
                break
            start, half = start + size, older_half
        entered[part] = made


@kernel
def take_slots(free, counters, slots, created, repeated):  # type: ignore[no-untyped-def]
    """Step 3: slots for the new keys, in order; created[:n] = places that made a row,
    repeated[:m] = later sightings of those. Returns (n, m, how many of the keys are absent still)."""
    made, again, absent = np.uint64(0), np.uint64(0), 0
    # take_slot with its counters in registers: all threads wait for this one.
    freed, unused = counters[FREE], counters[NEXT]
    for i in range(np.uint64(slots.shape[0])):
        slot = slots[i]
        if slot <= -3:
            first = np.uint64(-3 - slot)
            if first != i:
                slots[i] = slots[first]
                repeated[again] = i
                again += np.uint64(1)
                continue
            if freed > 0:
                freed -= 1
                slots[i] = free[np.uint64(freed)]
            else:
                slots[i] = unused
                unused += 1
            created[made] = i
            made += np.uint64(1)
        elif slot < 0:
            absent += 1
    counters[FREE], counters[NEXT] = freed, unused
    counters[ROWS] += np.int64(made)
    return np.int64(made), np.int64(again), absent


@kernel
def write_range(  # type: ignore[no-untyped-def]
    numbers, headers, flags, blocks, keys, spaces, now_s, version, slots, places, created, begin, end
):
    """Step 4 for created[begin:end]."""
    last = np.uint64(end - 1)
    for j in range(np.uint64(begin), np.uint64(end)):
        prefetch_far(numbers, places[np.uint64(created[min(j + np.uint64(AHEAD), last)])])
        i = np.uint64(created[j])
        slot = slots[i]
        numbers[np.uint64(places[i])] = np.uint32(slot + 1)
        write_header(headers, flags, blocks, slot, keys[i], version, now_s, spaces[i])


@kernel
def note_repeated(headers, flags, blocks, slots, repeated, now_s):  # type: ignore[no-untyped-def]
    """Sightings of new keys behind their first."""
    for j in range(repeated.shape[0]):
        note_sighting(headers, flags, blocks, slots[repeated[j]], now_s)
