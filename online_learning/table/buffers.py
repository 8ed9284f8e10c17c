"""Result arrays that are used again once their taker has let go of them."""

import sys

import numpy as np
from numpy.typing import NDArray

KEPT = 4
# Larger results are left to the system's allocator: keeping them would hide what a table costs.
LARGEST_BYTES = 64 << 20
# getrefcount sees the list, the loop's variable and its own argument.
UNUSED = 3


class Buffers:
    """f32 matrices [rows, dim]: a fresh one of megabytes costs a page fault per 4 KiB, more than filling it.

    A buffer is free when nothing but this object refers to it: every view that was handed out, and every tensor
    made of one, holds a reference.
    """

    def __init__(self) -> None:
        self._held: list[NDArray[np.float32]] = []

    def take(self, rows: int, dim: int) -> NDArray[np.float32]:
        """An uninitialised matrix f32 [rows, dim] that nobody else has."""
        size = rows * dim
        if size * 4 > LARGEST_BYTES or size == 0:
            return np.empty((rows, dim), np.float32)
        for held in self._held:
            if held.size >= size and sys.getrefcount(held) == UNUSED:
                return held[:size].reshape(rows, dim)
        # An eighth of room, so that batches of nearly equal size share one buffer.
        fresh = np.empty(size + size // 8, np.float32)
        self._held = [*self._held[-(KEPT - 1) :], fresh]
        return fresh[:size].reshape(rows, dim)
