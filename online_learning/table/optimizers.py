"""Optimizers that touch only the rows of a batch, after the gradients of equal rows have been summed.

All arithmetic is f32 in torch's order of operations, so that touched rows equal torch.optim's. Duplicates are summed
in batch order by whichever thread owns the row: the result does not depend on the number of threads.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import kernel
from online_learning.table.headers import LIVE
from online_learning.table.intrinsics import prefetch_row
from online_learning.table.settings import OptimizerKind, OptimizerSettings
from online_learning.table.workers import Workers

SGD, ADAGRAD, ROWWISE_ADAGRAD, LAZY_ADAM = 0, 1, 2, 3
_CODES = {
    OptimizerKind.SGD: SGD,
    OptimizerKind.ADAGRAD: ADAGRAD,
    OptimizerKind.ROWWISE_ADAGRAD: ROWWISE_ADAGRAD,
    OptimizerKind.LAZY_ADAM: LAZY_ADAM,
}
AHEAD = 8


def state_width(kind: OptimizerKind, dim: int) -> int:
    """Floats of optimizer state per row."""
    return {
        OptimizerKind.SGD: 0,
        OptimizerKind.ADAGRAD: dim,
        OptimizerKind.ROWWISE_ADAGRAD: 1,
        OptimizerKind.LAZY_ADAM: 2 * dim,
    }[kind]


@kernel
def bags_of(slots, offsets, mean, bags, shares):  # type: ignore[no-untyped-def]
    """bags[i] = the bag of slots[i]; shares[b] = what each row of bag b has of its gradient."""
    for bag in range(offsets.shape[0] - 1):
        present = 0
        for i in range(offsets[bag], offsets[bag + 1]):
            bags[i] = bag
            present += slots[i] >= 0
        shares[bag] = np.float32(1) / np.float32(present) if mean and present > 1 else np.float32(1)


@kernel
def group_by_slot(slots, bags, flags, slots_used, unique, starts, members):  # type: ignore[no-untyped-def]
    """Distinct slots in order of first appearance, and the bags (gradients) of each.

    unique[:m], starts[:m + 1], members[starts[j]:starts[j + 1]] in batch order. -1 is passed over. Returns m, or
    -1 - i where slots[i] is not the slot of a row.
    """
    n = slots.shape[0]
    size = 16
    while size < 2 * n:
        size *= 2
    # A slot and its group side by side: one access for both.
    seen = np.zeros(2 * size, np.uint32)
    mask = np.uint64(size - 1)
    group = np.empty(n, np.int32)
    distinct = np.uint32(0)
    for i in range(n):
        slot = slots[i]
        if slot == -1:
            group[i] = -1
            continue
        if slot < 0 or slot >= slots_used or not flags[slot] & np.uint8(LIVE):
            return -1 - i
        number = np.uint32(slot + 1)
        # Fibonacci hashing (Knuth 6.4) does for slots, which nobody chooses.
        place = ((np.uint64(slot) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & mask
        while seen[np.uint64(2) * place] != number and seen[np.uint64(2) * place] != np.uint32(0):
            place = (place + np.uint64(1)) & mask
        if seen[np.uint64(2) * place] == np.uint32(0):
            seen[np.uint64(2) * place] = number
            seen[np.uint64(2) * place + np.uint64(1)] = distinct
            unique[distinct] = slot
            starts[distinct + np.uint32(1)] = 0
            distinct += np.uint32(1)
        member = seen[np.uint64(2) * place + np.uint64(1)]
        group[i] = member
        starts[member + np.uint32(1)] += 1
    starts[0] = 0
    for j in range(distinct):
        starts[j + 1] += starts[j]
    filled = np.zeros(distinct, np.int32)
    for i in range(n):
        j = group[i]
        if j >= 0:
            members[starts[j] + filled[j]] = bags[i]
            filled[j] += 1
    return np.int64(distinct)


@kernel
def step_range(  # type: ignore[no-untyped-def]
    kind,
    values,
    dim,
    state,
    width,
    unique,
    starts,
    members,
    grads,
    shares,
    rate,
    epsilon,
    one_less_beta1,
    one_less_beta2,
    adam_rate,
    begin,
    end,
):
    """One optimizer step for the rows unique[begin:end], each on the sum of its members' gradients.

    grads and shares are those of bags; the share is multiplied in before anything is summed.
    """
    grad = np.empty(dim, np.float32)
    last = end - 1
    # Unsigned: numba would test a signed place for being counted from the end, and no loop here be vectorised.
    size = np.uint64(dim)
    for j in range(begin, end):
        ahead = min(j + AHEAD, last)
        prefetch_row(values, unique[ahead] * dim, dim)
        prefetch_row(state, unique[ahead] * width, width)
        prefetch_row(grads, members[starts[ahead]] * dim, dim)
        first = np.uint64(members[starts[j]]) * size
        share = shares[members[starts[j]]]
        for column in range(size):
            grad[column] = grads[first + column] * share
        for k in range(starts[j] + 1, starts[j + 1]):
            source = np.uint64(members[k]) * size
            share = shares[members[k]]
            for column in range(size):
                grad[column] += grads[source + column] * share
        place = np.uint64(unique[j]) * size
        if kind == SGD:
            for column in range(size):
                values[place + column] -= rate * grad[column]
        elif kind == ADAGRAD:
            for column in range(size):
                total = state[place + column] + grad[column] * grad[column]
                state[place + column] = total
                values[place + column] -= rate * grad[column] / (np.sqrt(total) + epsilon)
        elif kind == ROWWISE_ADAGRAD:
            squares = np.float32(0)
            for column in range(size):
                squares += grad[column] * grad[column]
            total = state[unique[j]] + squares / np.float32(dim)
            state[unique[j]] = total
            step = rate / (np.sqrt(total) + epsilon)
            for column in range(size):
                values[place + column] -= step * grad[column]
        else:
            mean = np.uint64(unique[j]) * np.uint64(width)
            variance = mean + size
            for column in range(size):
                g = grad[column]
                old_mean, old_variance = state[mean + column], state[variance + column]
                new_mean = (g - old_mean) * one_less_beta1 + old_mean
                new_variance = (g * g - old_variance) * one_less_beta2 + old_variance
                state[mean + column] = new_mean
                state[variance + column] = new_variance
                values[place + column] -= adam_rate * (new_mean / (np.sqrt(new_variance) + epsilon))


class Optimizer:
    """The rule of one table. `steps` counts calls: Adam's bias correction needs it, and a snapshot keeps it."""

    def __init__(self, settings: OptimizerSettings, dim: int) -> None:
        self.settings = settings
        self.steps = 0
        self.width = state_width(settings.kind, dim)
        adagrad = settings.kind in (OptimizerKind.ADAGRAD, OptimizerKind.ROWWISE_ADAGRAD)
        self.initial_state = np.float32(settings.initial_accumulator if adagrad else 0.0)

    def step(
        self,
        values: NDArray[np.float32],
        dim: int,
        state: NDArray[np.float32],
        flags: NDArray[np.uint8],
        slots_used: int,
        slots: NDArray[np.int64],
        grads: NDArray[np.float32],
        workers: Workers,
        learning_rate: float | None = None,
        bags: tuple[NDArray[np.int64], bool] | None = None,
    ) -> NDArray[np.int64]:
        """Apply grads f32 [n, dim] to the rows of slots i64 [n]; the distinct slots touched, in batch order.

        `bags`: (offsets i64 [b + 1], whether their rows were averaged), where grads f32 [b, dim] are those of bags of
        slots. Raises ValueError where a slot is neither -1 nor a row's.
        """
        n = len(slots)
        unique, starts = np.empty(n, np.int64), np.empty(n + 1, np.int64)
        members = np.empty(n, np.int64)
        if bags is None:
            bag_of, shares = np.arange(n), np.ones(n, np.float32)
        else:
            # A slot outside all bags has no gradient: it comes to a bag behind the last.
            bag_of, shares = np.full(n, len(grads)), np.ones(len(grads), np.float32)
            bags_of(slots, bags[0], bags[1], bag_of, shares)
            slots = np.where(bag_of < len(grads), slots, -1)
        distinct = group_by_slot(slots, bag_of, flags, slots_used, unique, starts, members)
        if distinct < 0:
            wrong = -1 - distinct
            raise ValueError(f"`slots`[{wrong}] == {slots[wrong]}, must be -1 or the slot of a row")
        self.steps += 1
        rule = self.settings
        workers.run(
            step_range,
            distinct,
            _CODES[rule.kind],
            values,
            dim,
            state,
            self.width,
            unique,
            starts,
            members,
            grads.reshape(-1),
            shares,
            *self._constants(rule.learning_rate if learning_rate is None else learning_rate),
        )
        return unique[:distinct]

    def _constants(self, rate: float) -> tuple[Any, ...]:
        rule = self.settings
        adam_rate = 0.0
        if rule.kind is OptimizerKind.LAZY_ADAM:
            # Kingma, Ba 2015, section 2, the rearranged form, as torch.optim.SparseAdam computes it (in double).
            adam_rate = rate * math.sqrt(1 - rule.beta2**self.steps) / (1 - rule.beta1**self.steps)
        constants = (rate, rule.epsilon, 1 - rule.beta1, 1 - rule.beta2, adam_rate)
        return tuple(np.float32(constant) for constant in constants)
