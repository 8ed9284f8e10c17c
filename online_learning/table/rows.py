"""The part of a table that knows numbers: embeddings and optimizer state, one line a slot, never moved."""

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import kernel
from online_learning.table.directory import Directory
from online_learning.table.draws import uniform_row
from online_learning.table.index import find_range
from online_learning.table.intrinsics import copy_row, mix64, prefetch_row
from online_learning.table.memory import reserve
from online_learning.table.settings import InitializerKind, InitializerSettings
from online_learning.table.workers import Workers

AHEAD = 24
"""Rows whose lines are asked for before they are read. What is asked for goes to L2, which has more requests in flight
than L1 can (48 against 16 on the machines this was measured on)."""

ZEROS, UNIFORM, NORMAL = 0, 1, 2
INITIALIZER_CODES = {InitializerKind.ZEROS: ZEROS, InitializerKind.UNIFORM: UNIFORM, InitializerKind.NORMAL: NORMAL}


@kernel
def clear_absent(dim, slots, out, begin, end):  # type: ignore[no-untyped-def]
    """Zeros in out[begin:end] for slots of -1."""
    for i in range(begin, end):
        if slots[i] < 0:
            for column in range(i * dim, (i + 1) * dim):
                out[column] = np.float32(0)


@kernel
def gather_range(values, dim, slots, out, begin, end):  # type: ignore[no-untyped-def]
    """out[begin:end] = rows of slots[begin:end]; zeros for -1."""
    absent, last = np.int64(0), np.uint64(end - 1)
    # Unsigned: numba tests every signed place for being counted from the end.
    for i in range(np.uint64(begin), np.uint64(min(begin + AHEAD, end))):
        prefetch_row(values, slots[i] * dim, dim)
    for i in range(np.uint64(begin), np.uint64(end)):
        # Of an absent key's row only an address is made: a prefetch cannot fault.
        prefetch_row(values, slots[min(i + np.uint64(AHEAD), last)] * dim, dim)
        slot = slots[i]
        # Nothing here depends on whether it is there: a branch that is guessed wrong costs as much as two rows.
        absent |= slot
        copy_row(out, np.int64(i) * dim, values, max(slot, 0) * dim, dim)
    if absent < 0:
        clear_absent(dim, slots, out, begin, end)


@kernel
def lookup_range(  # type: ignore[no-untyped-def]
    entries, numbers, state, seed, values, dim, keys, slots, out, begin, end
):
    """find_range and gather_range in one call, so that the slots are still in the cache when the rows are copied.

    One loop for both was slower: its requests for index and rows got into each other's way.
    """
    find_range(entries, numbers, state, seed, keys, slots, begin, end)
    gather_range(values, dim, slots, out, begin, end)


@kernel
def gather_pooled_range(values, dim, slots, offsets, mean, out, begin, end):  # type: ignore[no-untyped-def]
    """out[begin:end] = sums (means) of the rows of each bag slots[offsets[b]:offsets[b + 1]]; -1 is left out."""
    size, behind = np.uint64(dim), offsets[end]
    for i in range(offsets[begin], min(offsets[begin] + AHEAD, behind)):
        prefetch_row(values, slots[i] * dim, dim)
    for bag in range(begin, end):
        present = 0
        # Unsigned: with signed places the loops would not be vectorised.
        target = np.uint64(bag) * size
        for i in range(offsets[bag], offsets[bag + 1]):
            prefetch_row(values, slots[min(i + AHEAD, behind - 1)] * dim, dim)
            slot = slots[i]
            if slot >= 0:
                if present == 0:
                    copy_row(out, bag * dim, values, slot * dim, dim)
                else:
                    source = np.uint64(slot) * size
                    for column in range(size):
                        out[target + column] += values[source + column]
                present += 1
        if present == 0:
            for column in range(size):
                out[target + column] = np.float32(0)
        elif mean and present > 1:
            share = np.float32(1) / np.float32(present)
            for column in range(size):
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
    created,
    begin,
    end,
):
    """Write the first embedding (a function of seed and key alone) and optimizer state of the new rows
    created[begin:end], which are places in `slots` and `keys`."""
    # Unsigned, as in gather_pooled_range.
    size = np.uint64(dim)
    for j in range(np.uint64(begin), np.uint64(end)):
        i = np.uint64(created[j])
        place, zeros = np.uint64(slots[i]) * size, np.uint64(zero_columns)
        stream = mix64(keys[i] ^ seed)
        if kind == UNIFORM:
            low, high = np.uint32(stream & np.uint64(0xFFFFFFFF)), np.uint32(stream >> np.uint64(32))
            uniform_row(values, place, dim, zero_columns, low, high, scale)
            zeros = np.uint64(0)
        elif kind == NORMAL:
            for column in range(size):
                draw = mix64(stream + (column + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
                # Box-Muller; the first uniform lies in (0, 1] so that its logarithm exists
                first = (np.float64(draw >> np.uint64(32)) + 1.0) * 2.0**-32
                second = np.float64(draw & np.uint64(0xFFFFFFFF)) * 2.0**-32
                radius = np.sqrt(-2.0 * np.log(first))
                values[place + column] = np.float32(radius * np.cos(2.0 * np.pi * second)) * scale
        else:
            zeros = size
        for column in range(zeros):
            values[place + column] = np.float32(0)
        state_place = np.uint64(slots[i]) * np.uint64(width)
        for column in range(np.uint64(width)):
            state[state_place + column] = state_start


class Rows:
    """`values` f32 [reserved, dim] and `state` f32 [reserved, width]: views into reservations."""

    def __init__(self, reserved: int, dim: int, width: int) -> None:
        self.dim, self.width = dim, width
        self.flat_values: NDArray[np.float32] = reserve(reserved * dim, np.float32)
        self.flat_state: NDArray[np.float32] = reserve(reserved * width, np.float32)
        self.values = self.flat_values[: reserved * dim].reshape(reserved, dim)
        self.state = self.flat_state[: reserved * width].reshape(reserved, width)

    def initialise(
        self,
        rule: InitializerSettings,
        state_start: np.float32,
        seed: int,
        slots: NDArray[np.int64],
        keys: NDArray[np.uint64],
        created: NDArray[np.int64],
        initial: NDArray[np.float32] | None,
        workers: Workers,
    ) -> None:
        """Embedding and optimizer state of the new rows `created` i64 [m], places in slots i64 [n] and keys u64 [n].

        initial f32 [n, dim]: where they start if that does not begin with NaN.
        """
        workers.run(
            initialise_range,
            len(created),
            self.flat_values,
            self.dim,
            self.flat_state,
            self.width,
            state_start,
            INITIALIZER_CODES[rule.kind],
            np.float32(rule.scale),
            rule.zero_columns,
            np.uint64(seed),
            slots,
            keys,
            created,
        )
        if initial is not None:
            given = created[~np.isnan(initial[created, 0])]
            self.values[slots[given]] = initial[given]

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
