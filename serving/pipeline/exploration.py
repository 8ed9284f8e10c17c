"""The last stage: slots are drawn, so every slot has an exact probability that evaluation can divide by."""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray


class Draw(Struct, frozen=True):
    """One slot: `rank` points into the pool; `explored` says whether the uniform branch drew it.

    `propensity` is the probability of this item at this slot given the slots before it, over both branches.
    """

    rank: int
    propensity: float
    explored: bool


def pool_of(cold: NDArray[np.bool_], n: int, size: int) -> NDArray[np.int64]:
    """The ranks that slots are drawn from: the best, and some of the cold ones that ranking put further down.

    Args: `cold` bool[C] in rank order, whether a candidate has hardly been shown; `n` the slots asked for; `size` the
    pool's size. Returns int64[min(C, max(n, size))], ascending from 0. Cold items take at most half of the pool and
    never one of the first n ranks: they come in by exploration, not by pushing out what is best.
    """
    count = min(len(cold), max(n, size))
    kept = max(min(n, count), count - count // 2)
    further = np.flatnonzero(cold[kept:])[: count - kept] + kept
    best = np.arange(kept)
    if len(further) < count - kept:
        rest = np.setdiff1d(np.arange(kept, len(cold)), further, assume_unique=True)
        best = np.concatenate([best, rest[: count - kept - len(further)]])
    return np.sort(np.concatenate([best, further])).astype(np.int64)


def draw_slots(pool: int, n: int, explore: float, rng: np.random.Generator) -> list[Draw]:
    """Fills min(n, pool) slots from a pool of ranked items, 0 the best; `explore` is a share, 0..1.

    Each slot takes the best remaining item with probability 1 - `explore`, and with probability `explore` any of the
    remaining ones uniformly, so that for an item that remains
    P(slot = item | slots before) = (1 - explore) [item is the best remaining] + explore / remaining.
    """
    n = min(n, pool)
    remaining = list(range(pool))
    draws = []
    for coin, where in rng.random((n, 2)).tolist():
        left = len(remaining)
        explored = coin < explore
        chosen = int(where * left) if explored else 0
        propensity = explore / left + (0.0 if chosen else 1.0 - explore)
        draws.append(Draw(rank=remaining.pop(chosen), propensity=propensity, explored=explored))
    return draws
