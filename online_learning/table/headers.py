"""What a table notes of every row: the header of its slot, and a byte of flags.

A header is three u64 a slot: key | version | last seen in s (32 bits), count (16, saturating), space (16). Beside it
a byte of flags, and one byte per 64 slots that says where to look for flagged rows, so that the cost of collecting
what changed follows what changed and no queue has to be kept (or bounded, or lost).
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import inlined

HEADER_WORDS = 3
SLOTS_PER_BLOCK = 64

# Flags of a slot, u8.
LIVE = 1
TOUCHED = 2  # changed since it was last taken for publishing
IN_FLIGHT = 4  # taken, not yet acknowledged
UNSAVED = 8  # changed since the last snapshot
PROTECTED = 16  # in the batch being inserted: not to be evicted under it

COUNT_SHIFT, SPACE_MASK, COUNT_MAX = 16, 0xFFFF, 0xFFFF


@inlined
def raise_flags(flags, blocks, slot, bits):  # type: ignore[no-untyped-def]
    """Set flags of a slot, and in its block's byte.

    Threads that set the same bits, each of slots of its own, may do so at once: what they write to a block is equal.
    """
    bits = np.uint8(bits)
    if flags[slot] & bits != bits:
        flags[slot] |= bits
        blocks[slot // SLOTS_PER_BLOCK] |= bits


@inlined
def note_sighting(headers, flags, blocks, slot, now_s):  # type: ignore[no-untyped-def]
    """A row has been asked for once more."""
    word = headers[slot * HEADER_WORDS + 2]
    count = min((word >> np.uint64(COUNT_SHIFT)) & np.uint64(COUNT_MAX), np.uint64(COUNT_MAX - 1))
    headers[slot * HEADER_WORDS + 2] = (
        (now_s << np.uint64(32)) | ((count + np.uint64(1)) << np.uint64(COUNT_SHIFT)) | (word & np.uint64(SPACE_MASK))
    )
    raise_flags(flags, blocks, slot, UNSAVED)


@inlined
def write_header(headers, flags, blocks, slot, key, version, now_s, space):  # type: ignore[no-untyped-def]
    """The header of a new row, seen once."""
    headers[slot * HEADER_WORDS] = key
    headers[slot * HEADER_WORDS + 1] = version
    headers[slot * HEADER_WORDS + 2] = (now_s << np.uint64(32)) | np.uint64(1 << COUNT_SHIFT) | np.uint64(space)
    # As raise_flags does, of which this slot has none: to read back what was just written is to wait for it.
    bits, block = np.uint8(LIVE | TOUCHED | UNSAVED), slot // SLOTS_PER_BLOCK
    flags[slot] = bits
    if blocks[block] & bits != bits:
        blocks[block] |= bits


def last_seen_s(marks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Seconds since the epoch at which rows were last seen."""
    return marks >> np.uint64(32)


def counts_of(marks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How often rows were seen, at most 65,535."""
    return (marks >> np.uint64(COUNT_SHIFT)) & np.uint64(COUNT_MAX)


def spaces_of(marks: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Key spaces of rows."""
    return (marks & np.uint64(SPACE_MASK)).astype(np.uint16)
