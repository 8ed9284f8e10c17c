"""Finds its way through msgpack in compiled code: where a value ends, and what is inside it.

All of this trusts its bytes: they must be known to be msgpack that is complete.
"""

from typing import Any, Final

import numpy as np

from streams.packed.compiled import inlined, kernel

# Arrays u8 and i64 of compiled code, where what is read from them is no Python int.
Bytes = Any
Numbers = Any

# Of the bytes 0xc0 to 0xdf, in msgpack: how many bytes of a count follow, how many bytes come before what is counted,
# and how many values are one of what is counted (0: it is bytes).
_COUNT_BYTES: Final = np.zeros(32, dtype=np.int64)
_COUNT_BYTES[[0x04, 0x07, 0x19]] = 1
_COUNT_BYTES[[0x05, 0x08, 0x1A, 0x1C, 0x1E]] = 2
_COUNT_BYTES[[0x06, 0x09, 0x1B, 0x1D, 0x1F]] = 4
_MORE_BYTES: Final = np.zeros(32, dtype=np.int64)
_MORE_BYTES[0x07:0x19] = [1, 1, 1, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17]
_VALUES: Final = np.zeros(32, dtype=np.int64)
_VALUES[0x1C:0x20] = [1, 1, 2, 2]


@inlined
def big_endian(data: Bytes, at: int, size: int) -> int:
    """The number in `size` bytes from `at` on."""
    number = 0
    for k in range(size):
        number = (number << 8) | data[at + k]
    return number


@kernel
def end_of(data: Bytes, at: int) -> int:
    """Where the value at `at` ends."""
    left = 1
    while left > 0:
        left -= 1
        first = data[at]
        at += 1
        if first < 0x80 or first >= 0xE0:
            continue
        if first < 0x90:
            left += 2 * (first & 0x0F)
        elif first < 0xA0:
            left += first & 0x0F
        elif first < 0xC0:
            at += first & 0x1F
        else:
            kind = first - 0xC0
            count = big_endian(data, at, _COUNT_BYTES[kind])
            at += _COUNT_BYTES[kind] + _MORE_BYTES[kind]
            if _VALUES[kind]:
                left += count * _VALUES[kind]
            else:
                at += count
    return at


@inlined
def inside(data: Bytes, at: int) -> int:
    """Where the bytes of the string, or the values of the array at `at` begin."""
    first = data[at]
    return at + 1 if first < 0xC0 else at + 1 + _COUNT_BYTES[first - 0xC0]


@inlined
def length_of(data: Bytes, at: int) -> int:
    """The length of the array at `at`."""
    first = data[at]
    return int(first & 0x0F if first < 0xA0 else big_endian(data, at + 1, _COUNT_BYTES[first - 0xC0]))


@inlined
def integer(data: Bytes, at: int) -> Any:
    """The integer at `at`."""
    first: Any = np.int64(data[at])
    if first < 0x80:
        return first
    if first >= 0xE0:
        return first - 0x100
    bits = 8 << ((first - 0xCC) & 3)
    number = big_endian(data, at + 1, bits >> 3)
    if first >= 0xD0 and bits < 64 and number >> (bits - 1):
        number -= 1 << bits
    return number
