"""The shared table's inner loops.

`index` u64 [2 * capacity]: pairs (key, row + 1), linear probing, keys never removed from a file (a row that is gone has
key 0 in its own header). `rows` u64 [rows * stride]: per row a sequence word, the key, the space, then the columns as
f32; `floats` is the same memory as f32.
"""

import numpy as np
from numba import njit

from online_learning.table.intrinsics import mix64
from serving.shared import seqlock

ROW_HEADER = 3
"""Words before a row's columns: sequence, key, space."""

ABSENT, PRESENT, BUSY = 0, 1, 2
"""What a lookup says of a key; busy: its row was being written all the time."""

# Words of the writer's state.
USED_SLOTS, USED_ROWS, FREE_ROWS = 0, 1, 2

# Copying a row takes some 20 ns, so a live writer is through long before.
_SPINS = 2_000


@njit(cache=True, inline="always")
def _slot(index, mask, key):  # type: ignore[no-untyped-def]
    """(place of the pair, whether the key is there)."""
    position = np.int64(mix64(key)) & mask
    while True:
        found = seqlock.load_acquire(index, 2 * position)
        if found == key:
            return 2 * position, True
        if found == np.uint64(0):
            return 2 * position, False
        position = (position + 1) & mask


@njit(cache=True, inline="always")
def _read_row(rows, floats, stride, width, row, key, out, at):  # type: ignore[no-untyped-def]
    base = row * stride
    start = 2 * (base + ROW_HEADER)
    for _ in range(_SPINS):
        before = seqlock.load_acquire(rows, base)
        if before & np.uint64(1):
            continue
        here = rows[base + 1]
        for column in range(width):
            out[at, column] = floats[start + column]
        if seqlock.read_again(rows, base) == before:
            return PRESENT if here == key else ABSENT
    return BUSY


@njit(cache=True, nogil=True)
def lookup(index, mask, rows, floats, stride, width, keys, out, found, only_busy):  # type: ignore[no-untyped-def]
    """out[i] = row of keys[i], zeros where absent; found u8 [n]. With `only_busy` just those; returns how many are."""
    busy = 0
    for i in range(keys.shape[0]):
        if only_busy and found[i] != BUSY:
            continue
        key = keys[i]
        state = ABSENT
        if key != np.uint64(0):
            place, there = _slot(index, mask, key)
            if there:
                row = np.int64(seqlock.load_acquire(index, place + 1)) - 1
                state = _read_row(rows, floats, stride, width, row, key, out, i)
        if state != PRESENT:
            for column in range(width):
                out[i, column] = np.float32(0)
        if state == BUSY:
            busy += 1
        found[i] = state
    return busy


@njit(cache=True)
def read_rows(rows, floats, stride, width, first, keys, spaces, out):  # type: ignore[no-untyped-def]
    """Rows from `first` on with their keys u64 [n] (0: gone) and spaces; how many were busy."""
    busy = 0
    for i in range(keys.shape[0]):
        base = (first + i) * stride
        keys[i] = seqlock.load_acquire(rows, base + 1)
        spaces[i] = rows[base + 2]
        if keys[i] != np.uint64(0):
            state = _read_row(rows, floats, stride, width, first + i, keys[i], out, i)
            if state != PRESENT:
                keys[i] = np.uint64(0)
            busy += state == BUSY
    return busy


@njit(cache=True, inline="always")
def _write_row(rows, floats, stride, row, key, space, values, i):  # type: ignore[no-untyped-def]
    base = row * stride
    start = 2 * (base + ROW_HEADER)
    seqlock.write_begin(rows, base)
    rows[base + 1] = key
    rows[base + 2] = np.uint64(space)
    for column in range(values.shape[1]):
        floats[start + column] = values[i, column]
    seqlock.write_end(rows, base)


@njit(cache=True)
def tear(index, mask, rows, floats, stride, width, keys):  # type: ignore[no-untyped-def]
    """Leaves the first of the rows that is there odd, with half of its columns overwritten."""
    for i in range(keys.shape[0]):
        place, there = _slot(index, mask, keys[i])
        if there and keys[i] != np.uint64(0):
            base = (np.int64(index[place + 1]) - 1) * stride
            seqlock.write_begin(rows, base)
            for column in range(width // 2):
                floats[2 * (base + ROW_HEADER) + column] = np.float32(1e30)
            return


@njit(cache=True)
def upsert(index, mask, rows, floats, stride, state, free, keys, spaces, values):  # type: ignore[no-untyped-def]
    """Writes rows; there must be room for all. A new key is published last, when its row is whole."""
    for i in range(keys.shape[0]):
        key = keys[i]
        if key == np.uint64(0):
            continue
        place, there = _slot(index, mask, key)
        if there:
            row = np.int64(index[place + 1]) - 1
            if rows[row * stride + 1] == key:
                _write_row(rows, floats, stride, row, key, spaces[i], values, i)
                continue
        if state[FREE_ROWS] > 0:
            state[FREE_ROWS] -= 1
            row = free[state[FREE_ROWS]]
        else:
            row = state[USED_ROWS]
            state[USED_ROWS] += 1
        _write_row(rows, floats, stride, row, key, spaces[i], values, i)
        seqlock.store_release(index, place + 1, np.uint64(row + 1))
        if not there:
            state[USED_SLOTS] += 1
            seqlock.store_release(index, place, key)


@njit(cache=True)
def remove(index, mask, rows, stride, state, free, keys):  # type: ignore[no-untyped-def]
    """Takes rows away; a reader that holds one sees that its key has changed. Returns how many there were."""
    gone = 0
    for i in range(keys.shape[0]):
        place, there = _slot(index, mask, keys[i])
        # Key 0 is what an empty place looks like.
        if not there or keys[i] == np.uint64(0):
            continue
        row = np.int64(index[place + 1]) - 1
        base = row * stride
        if rows[base + 1] == keys[i]:
            seqlock.write_begin(rows, base)
            rows[base + 1] = np.uint64(0)
            seqlock.write_end(rows, base)
            free[state[FREE_ROWS]] = row
            state[FREE_ROWS] += 1
            gone += 1
    return gone
