"""Strings become 64-bit keys: xxh3_64 of `field + "\\x00" + value`."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

RESERVED_KEY = 0
"""No string has this key: an empty place in a row's header."""


def hash_key(field: str, value: str) -> int:
    """The key of one value of a field, in [1, 2^64)."""
    # The one string in 2^64 that hashes to the reserved key shares key 1: the birthday bound already covers it.
    return xxhash.xxh3_64_intdigest(f"{field}\x00{value}".encode("utf-8", "surrogatepass")) or 1


class KeyHasher:
    """Keys of one field's values, remembered: ids repeat, and a dict is three times faster than hashing.

    `capacity`: values remembered; when it is reached the older half is forgotten.
    """

    def __init__(self, field: str, capacity: int = 1 << 18) -> None:
        self.field = field
        self._capacity = max(2, capacity)
        self._known: dict[str, int] = {}

    def one(self, value: str) -> int:
        """The key of `value`."""
        key = self._known.get(value)
        if key is None:
            key = self._learn(value)
        return key

    def many(self, values: Sequence[str]) -> NDArray[np.uint64]:
        """Keys u64 [n] of `values`, in order."""
        known = self._known
        try:
            return np.fromiter(map(known.__getitem__, values), dtype=np.uint64, count=len(values))
        except KeyError:
            return np.fromiter(map(self.one, values), dtype=np.uint64, count=len(values))

    def _learn(self, value: str) -> int:
        if len(self._known) >= self._capacity:
            for old in list(self._known)[: self._capacity // 2]:
                del self._known[old]
        key = self._known[value] = hash_key(self.field, value)
        return key


def hash_keys(field: str, values: Iterable[str]) -> NDArray[np.uint64]:
    """Keys u64 [n] of a field's values, nothing remembered."""
    return np.array([hash_key(field, value) for value in values], dtype=np.uint64)


def collision_bound(keys: int) -> float:
    """The chance that any two of `keys` distinct strings share a 64-bit key: at most n(n-1)/2 over 2^64.

    The birthday (union) bound; 10 million keys: 2.7e-6, 1 billion: 0.027.
    """
    return min(1.0, math.ldexp(keys * (keys - 1) / 2, -64))
