"""Where candidates come from: near to the user, popular, or hardly shown yet."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Slots = NDArray[np.int64]
"""Positions in the catalogue, int64[K]."""

NEAREST, POPULAR, COLD = "nearest", "popular", "cold"


class Candidates(Struct, frozen=True):
    """Distinct items: `slots` int64[C], and for each which of `names` brought it first, `source` uint8[C]."""

    slots: Slots
    source: NDArray[np.uint8]
    names: tuple[str, ...]


def highest(scores: NDArray[np.floating], allowed: NDArray[np.bool_], k: int) -> Slots:
    """The min(k, allowed) slots with the highest scores, best first; scores[N], allowed bool[N]. Ties: lower slot."""
    slots = np.flatnonzero(allowed)
    if len(slots) > k:
        found = scores[slots]
        slots = slots[np.argpartition(found, len(found) - k)[-k:]]
    return slots[np.lexsort((slots, -scores[slots]))].astype(np.int64, copy=False)


def first_allowed(order: Slots, allowed: NDArray[np.bool_], k: int) -> Slots:
    """The first k slots of a prepared order that are allowed."""
    order = order[order < len(allowed)]
    return order[allowed[order]][:k]


def merge(found: Sequence[tuple[str, Slots]], catalogue: int) -> Candidates:
    """All candidates once, in the order of the sources; an item belongs to the first source that brought it.

    `catalogue`: N, the number of slots.
    """
    slots = np.concatenate([slots for _, slots in found])
    source = np.repeat(np.arange(len(found), dtype=np.uint8), [len(slots) for _, slots in found])
    # Where each slot stands first: written from behind, so that the first writer stays.
    first = np.empty(catalogue, dtype=np.int64)
    place = np.arange(len(slots))
    first[slots[::-1]] = place[::-1]
    once = first[slots] == place
    return Candidates(slots[once], source[once], tuple(name for name, _ in found))


def members(slots: Slots, of: Slots, catalogue: int) -> NDArray[np.bool_]:
    """Which of `slots` are among `of`; `catalogue`: N, the number of slots."""
    among = np.zeros(catalogue, dtype=np.bool_)
    among[of] = True
    return among[slots]
