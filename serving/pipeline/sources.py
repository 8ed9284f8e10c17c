"""Where candidates come from: near to the user, popular, or hardly shown yet."""

from collections.abc import Iterable

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

    def name(self, row: int) -> str:
        """The source of the candidate at `row`."""
        return self.names[int(self.source[row])]


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


def merge(found: Iterable[tuple[str, Slots]]) -> Candidates:
    """All candidates once, in the order of the sources; an item belongs to the first source that brought it."""
    named = [(name, slots) for name, slots in found if len(slots)]
    names = tuple(name for name, _ in named)
    if not named:
        return Candidates(np.empty(0, np.int64), np.empty(0, np.uint8), ())
    slots = np.concatenate([slots for _, slots in named])
    source = np.repeat(np.arange(len(named), dtype=np.uint8), [len(slots) for _, slots in named])
    first = np.sort(np.unique(slots, return_index=True)[1])
    return Candidates(slots[first], source[first], names)
