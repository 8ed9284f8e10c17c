"""The hash trick: ids share the slots of a space of fixed size, and those that share one are one id."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def expected_loss(ids: int, slots: int) -> float:
    """The expected share of n distinct ids that are lost when each falls on one of m slots at random.

    Lost = 1 - distinct slots / n; a slot stays empty with probability (1 - 1/m)^n.
    """
    if slots == 1:
        return 1 - 1 / ids
    taken = -slots * math.expm1(ids * math.log1p(-1 / slots))
    return 1 - taken / ids


def slots_for(ids: int, loss: float) -> int:
    """The smallest space in which no more than the share `loss` of n distinct ids is expected to be lost.

    Raises ValueError outside of 0 < loss < 1.
    """
    if not 0 < loss < 1:
        raise ValueError(f"`loss` == {loss}, must be in (0, 1)")
    low, high = 1, 1
    while expected_loss(ids, high) > loss:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        if expected_loss(ids, middle) > loss:
            low = middle + 1
        else:
            high = middle
    return low


def hashed(ids: NDArray[Any], slots: int, seed: int) -> NDArray[np.int64]:
    """Slots i64 [n] in [0, slots) of ids [n], another mapping for every seed; ids below 0 stay (missing)."""
    # The finalizer of splitmix64 (Steele, Lea, Flood 2014): each bit of the id moves every bit of the result.
    start = np.uint64((seed + 1) * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF)
    x = ids.astype(np.int64).view(np.uint64) + start
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return np.where(ids < 0, ids, (x % np.uint64(slots)).astype(np.int64))


def lost(ids: NDArray[Any], slots_of_ids: NDArray[np.int64]) -> float:
    """The share of distinct ids [n] that a mapping to slots [n] has lost; missing ids do not count."""
    there = ids >= 0
    return 1 - len(np.unique(slots_of_ids[there])) / len(np.unique(ids[there]))
