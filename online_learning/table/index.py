"""The index: 64-bit key -> slot of its row, open addressing that grows one small segment at a time.

A line is one cache line: five entries and room for nothing else. An entry is a key's 64-bit hash and the number of its
slot. The hash is a bijection of the key, so an equal hash *is* the equal key: a lookup reads one line of the index and
then the row, never the row's header (two cache misses for a row of 128 bytes would become three). All five are compared
at once.

Linear hashing (Litwin 1980) over segments of 512 lines, linear probing from line to line inside a segment. The index
never rehashes as a whole: once it is three quarters full, every few insertions split one segment in two (some 10 us),
so no call ever waits for more than its own share, and a lookup always begins at one place. Both generations of a
doubling live side by side in one array that never moves: segments below `split` are already of the new one.

Cost per row at load 0.75: 64 / 5 / 0.75 = 17.07 bytes.
"""

import numpy as np

from online_learning.table.compiled import inlined, kernel
from online_learning.table.intrinsics import first_bit, match_line, mix64, prefetch

LINE_WORDS = 8
PLACES = 5
SEGMENT_BITS = 9
SEGMENT_LINES = 1 << SEGMENT_BITS
SEGMENT = SEGMENT_LINES * PLACES
LINE_BYTES = LINE_WORDS * 8
MAX_LOAD = 0.75
# A doubling starts at load 3/4 and is through 1/16 of the old capacity later.
INSERTIONS_PER_SPLIT = SEGMENT // 16
# 2^32 slots at load 3/4 are not more.
MAX_LEVEL = 22

# Places in the index's state, i64 [4]. DUE: used entries above which the next split has to be done.
LEVEL, SPLIT, USED, DUE = 0, 1, 2, 3

BLOCK = 32
"""Keys that are hashed together, by vector instructions, and as many between asking for a line and reading it."""
WAITING = 8
"""Keys whose second lines are asked for before the first of them is read."""


def levels_for(rows: int) -> int:
    """The level (log2 of segments) at which `rows` keys fit without passing the load at which it would split."""
    level = 0
    while rows > MAX_LOAD * (SEGMENT << level):
        level += 1
    return level


def words_for(rows: int) -> int:
    """Words (u64) of index to reserve so that `rows` keys fit."""
    return SEGMENT_LINES * LINE_WORDS << min(levels_for(rows) + 1, MAX_LEVEL)


@inlined
def hash_of(key, seed):  # type: ignore[no-untyped-def]
    """The seeded hash of a key, a bijection: without the seed nobody can choose keys that share a segment.

    That of the reserved key 0 is 0, which marks an empty place.
    """
    return mix64(key ^ seed) ^ mix64(seed)


@inlined
def line_of(hashed, level, split):  # type: ignore[no-untyped-def]
    """The line at which the search for a hash begins."""
    segment = np.int64(hashed >> np.uint64(SEGMENT_BITS)) & ((1 << (level + 1)) - 1)
    older = segment & ((1 << level) - 1)
    if older >= split:
        segment = older
    return (segment << SEGMENT_BITS) | np.int64(hashed & np.uint64(SEGMENT_LINES - 1))


@inlined
def next_line(line):  # type: ignore[no-untyped-def]
    """The line behind, round the segment."""
    return (line & ~np.int64(SEGMENT_LINES - 1)) | ((line + 1) & (SEGMENT_LINES - 1))


@inlined
def number_place(word):  # type: ignore[no-untyped-def]
    """Where in `numbers` (the index as u32) the slot + 1 of the entry whose hash is at `word` stands (0: empty)."""
    return ((word >> 3) << 4) + 2 * PLACES + (word & (LINE_WORDS - 1))


@inlined
def probe(entries, numbers, hashed, line):  # type: ignore[no-untyped-def]
    """(slot, word of its entry) of a hash, or (-1, word of the place where it would go; -1 in a full segment)."""
    every = np.uint64((1 << PLACES) - 1)
    for _ in range(SEGMENT_LINES):
        word = line << 3
        found = match_line(entries, word, hashed) & every
        if found != 0:
            word += np.int64(first_bit(found))
            return np.int64(numbers[number_place(word)]) - 1, word
        empty = match_line(entries, word, np.uint64(0)) & every
        if empty != 0:
            return np.int64(-1), word + np.int64(first_bit(empty))
        line = next_line(line)
    return np.int64(-1), np.int64(-1)


@kernel
def find_range(entries, numbers, state, seed, keys, slots, begin, end):  # type: ignore[no-untyped-def]
    """slots[begin:end] = slots of keys[begin:end], -1 where absent.

    While a block is looked up, the lines of the next are asked for.
    """
    level, split = state[LEVEL], state[SPLIT]
    every = np.uint64((1 << PLACES) - 1)
    # Places are unsigned here: numba tests every signed one for being counted from the end.
    start, stop, block = np.uint64(begin), np.uint64(end), np.uint64(BLOCK)
    hashes, words = np.empty(2 * BLOCK, np.uint64), np.empty(2 * BLOCK, np.int64)
    # Keys that were not in their first line, which was full: their next one is asked for, too.
    waiting, waiting_keys, waiting_lines = (
        np.empty(WAITING, np.uint64),
        np.empty(WAITING, np.uint64),
        np.empty(WAITING, np.int64),
    )
    count, size, half = np.uint64(0), np.uint64(0), np.uint64(0)
    while True:
        before, older, older_half = start - size, size, block - half
        size = min(block, stop - start)
        for i in range(size):
            hashed = hash_of(keys[start + i], seed)
            hashes[half + i], words[half + i] = hashed, line_of(hashed, level, split) << 3
        if older == 0:
            for i in range(size):
                prefetch(entries, words[half + i])
        for i in range(older):
            # Behind the last key these are words of blocks before: asked for in vain, which is cheaper than a test.
            prefetch(entries, words[half + i])
            place, hashed, word = before + i, hashes[older_half + i], words[older_half + i]
            found = match_line(entries, word, hashed) & every
            if found != 0:
                slots[place] = np.int64(numbers[np.uint64(number_place(word)) + first_bit(found)]) - 1
            elif match_line(entries, word, np.uint64(0)) & every != 0:
                slots[place] = -1
            else:
                line = next_line(word >> 3)
                prefetch(entries, line << 3)
                waiting[count], waiting_keys[count], waiting_lines[count] = place, hashed, line
                count += np.uint64(1)
                if count == WAITING:
                    for j in range(count):
                        slots[waiting[j]], _ = probe(entries, numbers, waiting_keys[j], waiting_lines[j])
                    count = np.uint64(0)
        if size == 0:
            break
        start, half = start + size, older_half
    for j in range(count):
        slots[waiting[j]], _ = probe(entries, numbers, waiting_keys[j], waiting_lines[j])


@inlined
def put(entries, numbers, word, hashed, number):  # type: ignore[no-untyped-def]
    """Write an entry."""
    entries[word] = hashed
    numbers[number_place(word)] = np.uint32(number)


@kernel
def split_range(entries, numbers, level, split, begin, end):  # type: ignore[no-untyped-def]
    """Split segments split + [begin, end) of a level: entries whose next hash bit is set move to new segments.

    Lines are filled by counts: to look for room in a line just written to is to wait until that is through.
    """
    size, lines = np.uint64(SEGMENT_LINES * LINE_WORDS), np.uint64(SEGMENT_LINES)
    held = np.empty(size, np.uint64)
    held_numbers = held.view(np.uint32)
    used = np.empty(2 * SEGMENT_LINES, np.uint8)
    for segment in range(np.uint64(split + begin), np.uint64(split + end)):
        first = segment * size
        for i in range(size):
            held[i] = entries[first + i]
            entries[first + i] = np.uint64(0)
        for i in range(2 * lines):
            used[i] = 0
        upper_first = first + (size << np.uint64(level))
        for word in range(size):
            hashed = held[word]
            # What of the line is no hash, and empty places.
            if (word & np.uint64(LINE_WORDS - 1)) >= np.uint64(PLACES) or hashed == np.uint64(0):
                continue
            upper = (hashed >> np.uint64(SEGMENT_BITS) >> np.uint64(level)) & np.uint64(1)
            half, line = upper * lines, hashed & (lines - np.uint64(1))
            while used[half + line] == PLACES:
                line = (line + np.uint64(1)) & (lines - np.uint64(1))
            place = (upper_first if upper else first) + (line << np.uint64(3)) + np.uint64(used[half + line])
            used[half + line] += 1
            entries[place] = hashed
            from_place, to_place = number_place(np.int64(word)), number_place(np.int64(place))
            numbers[np.uint64(to_place)] = held_numbers[np.uint64(from_place)]


@kernel
def splits_due(state, words):  # type: ignore[no-untyped-def]
    """How many of the next segments of this level have to be split now (DUE is set for what comes after them).

    Where `words` of index leave no room for another, it just gets fuller.
    """
    level, split = state[LEVEL], state[SPLIT]
    due, count = state[DUE], 0
    while state[USED] > due and split + count < 1 << level:
        if ((1 << level) + split + count + 1) * SEGMENT_LINES * LINE_WORDS > words or level >= MAX_LEVEL:
            state[DUE] = np.int64(1) << 62
            return count
        count += 1
        # In the doubling from capacity C, split k happens at 3/4 C + k * INSERTIONS_PER_SPLIT insertions.
        due = (3 * (SEGMENT << level) >> 2) + (split + count) * INSERTIONS_PER_SPLIT
    if split + count == 1 << level:
        due = 3 * (SEGMENT << (level + 1)) >> 2
    state[DUE] = due
    return count


@kernel
def splits_done(state, count):  # type: ignore[no-untyped-def]
    """So many more segments of this level have been split."""
    state[SPLIT] += count
    if state[SPLIT] == 1 << state[LEVEL]:
        state[LEVEL] += 1
        state[SPLIT] = 0


@kernel
def grow(entries, numbers, state):  # type: ignore[no-untyped-def]
    """Do the splits that are due."""
    while state[USED] > state[DUE]:
        count = splits_due(state, entries.shape[0])
        split_range(entries, numbers, state[LEVEL], state[SPLIT], 0, count)
        splits_done(state, count)


@kernel
def erase(entries, numbers, state, word):  # type: ignore[no-untyped-def]
    """Empty one place and close the gap (no deleted markers, so searches stay short: Knuth 6.4 R, by lines).

    A search goes past a line only if it is full: an entry is brought back into a line that was, from behind it.
    """
    every = np.uint64((1 << PLACES) - 1)
    gap, line = word, word >> 3
    was_full = match_line(entries, line << 3, np.uint64(0)) & every == 0
    for _ in range(SEGMENT_LINES - 1):
        if not was_full:
            break
        gap_line = gap >> 3
        line = next_line(line)
        was_full = match_line(entries, line << 3, np.uint64(0)) & every == 0
        reach = (line - gap_line) & (SEGMENT_LINES - 1)
        for other in range(line << 3, (line << 3) + PLACES):
            hashed = entries[other]
            # How far behind its home it is: at least as far as the gap is, it may go there.
            home = np.int64(hashed & np.uint64(SEGMENT_LINES - 1))
            if hashed != np.uint64(0) and ((line - home) & (SEGMENT_LINES - 1)) >= reach:
                put(entries, numbers, gap, hashed, numbers[number_place(other)])
                gap = other
                break
    put(entries, numbers, gap, np.uint64(0), np.uint32(0))
    state[USED] -= 1


@kernel
def probe_histogram(entries, state, counts):  # type: ignore[no-untyped-def]
    """counts[d] += entries found d lines behind their home (the last bucket holds the rest)."""
    segments = (1 << state[LEVEL]) + state[SPLIT]
    last = counts.shape[0] - 1
    for line in range(segments << SEGMENT_BITS):
        for word in range(line << 3, (line << 3) + PLACES):
            if entries[word] != np.uint64(0):
                home = np.int64(entries[word] & np.uint64(SEGMENT_LINES - 1))
                counts[min((line - home) & (SEGMENT_LINES - 1), last)] += 1
