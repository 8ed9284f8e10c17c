"""Array arguments brought to the one form that the kernels are compiled for, or refused with a reason."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.keys import RESERVED_KEY

Keys = NDArray[np.uint64]
Spaces = NDArray[np.uint16]
Slots = NDArray[np.int64]
Floats = NDArray[np.float32]


def writable(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """C-contiguous, of `dtype`, and writable: numba would compile everything once more for read-only arrays."""
    return np.require(array, dtype, ["C", "W"])


def _numbers(array: NDArray[Any], dtype: Any, name: str) -> NDArray[Any]:
    """Whole numbers [n] as an integer `dtype`. Raises ValueError where that would change one, or for another shape."""
    array = np.asarray(array)
    if array.ndim != 1:
        raise ValueError(f"`{name}` has shape {array.shape}, must be (n,)")
    if array.dtype != dtype and len(array):
        bounds = np.iinfo(dtype)
        whole = array.dtype.kind in "iu"
        if not whole or int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise ValueError(f"`{name}` are {array.dtype}, must be whole numbers in [{bounds.min}, {bounds.max}]")
    return writable(array, dtype)


def as_keys(keys: Keys) -> Keys:
    """Keys u64 [n]. Raises ValueError where they are none."""
    return _numbers(keys, np.uint64, "keys")


def as_new_keys(keys: Keys) -> Keys:
    """Keys u64 [n] that may get rows. Raises ValueError where one is the reserved key."""
    keys = as_keys(keys)
    # Three times as fast as all().
    if len(keys) and keys.min() == RESERVED_KEY:
        raise ValueError(f"key {RESERVED_KEY} is reserved")
    return keys


def as_spaces(spaces: Spaces, count: int) -> Spaces:
    """Key spaces u16 [n], one per key. Raises ValueError for another length."""
    spaces = _numbers(spaces, np.uint16, "spaces")
    if spaces.shape != (count,):
        raise ValueError(f"`spaces` has shape {spaces.shape}, must be ({count},)")
    return spaces


def as_slots(slots: Slots, slots_used: int) -> Slots:
    """Slots i64 [n]. Raises ValueError outside [-1, slots_used): a wild read would not even fault."""
    slots = _numbers(slots, np.int64, "slots")
    if len(slots) and (int(slots.max()) >= slots_used or int(slots.min()) < -1):
        raise ValueError(f"`slots` must be in [-1, {slots_used})")
    return slots


def as_floats(values: Floats, shape: tuple[int, int], name: str) -> Floats:
    """f32 of exactly this shape. Raises ValueError for another."""
    if values.shape != shape:
        raise ValueError(f"`{name}` has shape {values.shape}, must be {shape}")
    return writable(values, np.float32)


def as_offsets(offsets: Slots, length: int) -> Slots:
    """Bag offsets i64 [b + 1]. Raises ValueError where they do not rise from 0 or more to at most `length`."""
    offsets = _numbers(offsets, np.int64, "offsets")
    rising = len(offsets) > 0 and offsets[0] >= 0 and offsets[-1] <= length and bool((np.diff(offsets) >= 0).all())
    if not rising:
        raise ValueError(f"`offsets` must rise from 0 or more to at most {length}")
    return offsets
