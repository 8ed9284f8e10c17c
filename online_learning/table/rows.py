"""The part of a table that knows numbers: embeddings and optimizer state, one line a slot, never moved."""

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import inlined, kernel
from online_learning.table.directory import Directory
from online_learning.table.index import LEVEL, SPLIT, hash_of, line_of, probe
from online_learning.table.intrinsics import FLOATS_PER_LINE, copy_line, mix64, prefetch_far
from online_learning.table.memory import reserve
from online_learning.table.settings import InitializerKind
from online_learning.table.workers import Workers

AHEAD = 32
"""Rows whose lines are asked for before they are read; into L2, as index.py says of its lines."""
GROUP = 8
"""Keys of a lookup that go through one step together: short loops, in which a core overlaps what does not depend."""

ZEROS, UNIFORM, NORMAL = 0, 1, 2
INITIALIZER_CODES = {InitializerKind.ZEROS: ZEROS, InitializerKind.UNIFORM: UNIFORM, InitializerKind.NORMAL: NORMAL}


@inlined
def prefetch_row(values, place, dim):  # type: ignore[no-untyped-def]
    """Ask for all cache lines of a row."""
    for offset in range(0, dim, FLOATS_PER_LINE):
        prefetch_far(values, place + offset)


@inlined
def copy_row(out, target, values, source, dim):  # type: ignore[no-untyped-def]
    """out[target:target + dim] = values[source:source + dim]."""
    whole = dim & ~(FLOATS_PER_LINE - 1)
    for column in range(0, whole, FLOATS_PER_LINE):
        copy_line(out, target + column, values, source + column)
    for column in range(whole, dim):
        out[target + column] = values[source + column]


@kernel
def gather_range(values, dim, slots, out, begin, end):  # type: ignore[no-untyped-def]
    """out[begin:end] = rows of slots[begin:end]; zeros for -1."""
    for i in range(begin, end):
        if i + AHEAD < end and slots[i + AHEAD] >= 0:
            prefetch_row(values, slots[i + AHEAD] * dim, dim)
        if slots[i] >= 0:
            copy_row(out, i * dim, values, slots[i] * dim, dim)
        else:
            for column in range(i * dim, (i + 1) * dim):
                out[column] = np.float32(0)


@kernel
def lookup_range(  # type: ignore[no-untyped-def]
    entries, numbers, state, seed, values, dim, keys, slots, out, begin, end
):
    """find_range and gather_range in one: slots[begin:end] and out[begin:end] of keys[begin:end].

    Three steps, two groups of keys apart: ask for the index's line; read it and ask for the row; copy the row.
    """
    level, split = state[LEVEL], state[SPLIT]
    ring = 4 * GROUP
    hashes = np.empty(ring, np.uint64)
    for start in range(begin, end + 4 * GROUP, GROUP):
        for i in range(max(begin, start - 4 * GROUP), min(end, start - 3 * GROUP)):
            if slots[i] >= 0:
                copy_row(out, i * dim, values, slots[i] * dim, dim)
            else:
                for column in range(i * dim, (i + 1) * dim):
                    out[column] = np.float32(0)
        for i in range(max(begin, start - 2 * GROUP), min(end, start - GROUP)):
            hashed = hashes[i & (ring - 1)]
            slot, _ = probe(entries, numbers, hashed, line_of(hashed, level, split))
            slots[i] = slot
            # Of an absent key's row only an address is made: a prefetch cannot fault.
            prefetch_row(values, slot * dim, dim)
        for i in range(start, min(end, start + GROUP)):
            hashed = hash_of(keys[i], seed)
            hashes[i & (ring - 1)] = hashed
            prefetch_far(entries, line_of(hashed, level, split) << 3)


@kernel
def gather_pooled_range(values, dim, slots, offsets, mean, out, begin, end):  # type: ignore[no-untyped-def]
    """out[begin:end] = sums (means) of the rows of each bag slots[offsets[b]:offsets[b + 1]]; -1 is left out."""
    for bag in range(begin, end):
        target = bag * dim
        for column in range(dim):
            out[target + column] = np.float32(0)
        present = 0
        last = offsets[bag + 1]
        for i in range(offsets[bag], last):
            if i + AHEAD < last and slots[i + AHEAD] >= 0:
                prefetch_row(values, slots[i + AHEAD] * dim, dim)
            slot = slots[i]
            if slot >= 0:
                present += 1
                source = slot * dim
                for column in range(dim):
                    out[target + column] += values[source + column]
        if mean and present > 1:
            share = np.float32(1) / np.float32(present)
            for column in range(dim):
                out[target + column] *= share


@kernel
def spread_range(bag_grads, dim, slots, offsets, mean, out, begin, end):  # type: ignore[no-untyped-def]
    """The gradient of gather_pooled_range: every row of a bag gets the bag's gradient (its share, for means)."""
    for bag in range(begin, end):
        present = 0
        for i in range(offsets[bag], offsets[bag + 1]):
            if slots[i] >= 0:
                present += 1
        share = np.float32(1) / np.float32(present) if mean and present > 1 else np.float32(1)
        for i in range(offsets[bag], offsets[bag + 1]):
            for column in range(dim):
                out[i * dim + column] = bag_grads[bag * dim + column] * share


@kernel
def initialise_range(  # type: ignore[no-untyped-def]
    values,
    dim,
    state,
    width,
    state_start,
    kind,
    scale,
    zero_columns,
    seed,
    slots,
    keys,
    begin,
    end,
):
    """Write the first embedding (a function of seed and key alone) and optimizer state of new rows."""
    for i in range(begin, end):
        place = slots[i] * dim
        stream = mix64(keys[i] ^ seed)
        for column in range(dim):
            value = np.float32(0)
            if kind != ZEROS and column >= zero_columns:
                draw = mix64(stream + np.uint64(column + 1) * np.uint64(0x9E3779B97F4A7C15))
                if kind == UNIFORM:
                    # 24 bits: every f32 in [0, 1) of that grid is equally likely
                    unit = np.float32(draw >> np.uint64(40)) * np.float32(2.0**-24)
                    value = (np.float32(2) * unit - np.float32(1)) * scale
                else:
                    # Box-Muller; the first uniform lies in (0, 1] so that its logarithm exists
                    first = (np.float64(draw >> np.uint64(32)) + 1.0) * 2.0**-32
                    second = np.float64(draw & np.uint64(0xFFFFFFFF)) * 2.0**-32
                    radius = np.sqrt(-2.0 * np.log(first))
                    value = np.float32(radius * np.cos(2.0 * np.pi * second)) * scale
            values[place + column] = value
        for column in range(width):
            state[slots[i] * width + column] = state_start


class Rows:
    """`values` f32 [reserved, dim] and `state` f32 [reserved, width]: views into reservations."""

    def __init__(self, reserved: int, dim: int, width: int) -> None:
        self.dim, self.width = dim, width
        self.flat_values: NDArray[np.float32] = reserve(reserved * dim, np.float32)
        self.flat_state: NDArray[np.float32] = reserve(reserved * width, np.float32)
        self.values = self.flat_values[: reserved * dim].reshape(reserved, dim)
        self.state = self.flat_state[: reserved * width].reshape(reserved, width)

    def gather(self, slots: NDArray[np.int64], out: NDArray[np.float32], workers: Workers) -> None:
        """out f32 [n, dim] = rows of slots i64 [n]; zeros for -1."""
        workers.run(gather_range, len(slots), self.flat_values, self.dim, slots, out.reshape(-1))

    def lookup(
        self,
        directory: Directory,
        keys: NDArray[np.uint64],
        slots: NDArray[np.int64],
        out: NDArray[np.float32],
        workers: Workers,
    ) -> None:
        """slots i64 [n] and out f32 [n, dim] = slots and rows of keys u64 [n]; -1 and zeros where absent."""
        index, seed = directory.index, directory.seed
        workers.run(lookup_range, len(keys), *index, seed, self.flat_values, self.dim, keys, slots, out.reshape(-1))

    def gather_state(self, slots: NDArray[np.int64], out: NDArray[np.float32], workers: Workers) -> None:
        """out f32 [n, width] = optimizer state of slots i64 [n]."""
        workers.run(gather_range, len(slots), self.flat_state, self.width, slots, out.reshape(-1))

    def gather_pooled(
        self,
        slots: NDArray[np.int64],
        offsets: NDArray[np.int64],
        mean: bool,
        out: NDArray[np.float32],
        workers: Workers,
    ) -> None:
        """out f32 [b, dim] = pooled rows of the bags slots[offsets[b]:offsets[b + 1]]."""
        workers.run(
            gather_pooled_range,
            len(offsets) - 1,
            self.flat_values,
            self.dim,
            slots,
            offsets,
            mean,
            out.reshape(-1),
            piece=1024,
        )
