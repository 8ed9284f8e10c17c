"""The examples of shown items on which nobody acted: most of what the join emits, made by compiled code.

They differ from their impression in few fields. The others are copied from the impression's own bytes: making and
encoding ten records cost more than all the rest of the join, and opening the impression in Python as much again.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from streams.columns import Columns
from streams.records import SCHEMA_VERSION, Example, ModelVersion

# Arrays u8 and i64 of compiled code, where what is read from them is no Python int.
Bytes = Any
Numbers = Any

_encode = msgspec.msgpack.Encoder().encode
HEAD: Final = b"\xdc" + len(Example.__struct_fields__).to_bytes(2, "big") + _encode(SCHEMA_VERSION)
"""What every example begins with: a msgpack array of all its fields, and the first of them."""
_REVISION: Final = _encode(0)
_NO_FEATURES: Final = _encode([])
# What older impressions lack, from `session` to `user_features`.
_LACKING: Final = list(map(_encode, (None, "", {}, [], "", ModelVersion(), None)))
# The places of all these among the constants.
_HEAD_AT, _REVISION_AT, _LABELS_AT, _END_AT, _NO_FEATURES_AT, _LACKING_AT = range(6)
# The fields of an impression: v, request, ts, user, items, session, scene, context to user features.
_REQUEST, _TS, _USER, _ITEMS, _SESSION, _SCENE, _CONTEXT, _FIELDS = 1, 2, 3, 4, 5, 6, 7, 12
# Of a slot: item, position, score, propensity, source, explored, features.
_POSITION, _PROPENSITY, _FEATURES = 1, 3, 6
# What an example has beside what it copies: the head of its id, the id's slash and digits.
_MOST_OWN_BYTES: Final = 5 + 1 + 20


class Negatives:
    """Gathers impressions whose window is over. `labels` and `end`: the encoded labels of an item on which nobody
    acted, and the fields of such an example behind the item's features."""

    def __init__(self, labels: bytes, end: bytes) -> None:
        self._constants = [HEAD, _REVISION, labels, end, _NO_FEATURES, *_LACKING]
        self._impressions: list[bytes] = []
        self._spoken: list[tuple[int, int]] = []

    def add(self, impression: bytes, spoken: Iterable[int] = ()) -> None:
        """Adds an encoded impression, known to be readable; `spoken` are the places of items that make no negative."""
        place = len(self._impressions)
        self._impressions.append(impression)
        for k in sorted(spoken):
            self._spoken.append((place, k))

    def drain(self) -> "Closed":
        """What was added since the last drain."""
        closed = Closed(self._constants, self._impressions, self._spoken)
        self._impressions, self._spoken = [], []
        return closed


class Closed(Struct, frozen=True):
    """Impressions whose window is over, as `Negatives` gathers them; any thread may make examples of them."""

    constants: list[bytes]
    impressions: list[bytes]
    spoken: list[tuple[int, int]]

    def __len__(self) -> int:
        """How many impressions these are."""
        return len(self.impressions)

    def columns(self) -> Columns:
        """Their examples, with users as keys; the items of each impression in their order."""
        pieces = self.constants + self.impressions
        begins = np.fromiter(accumulate(map(len, pieces), initial=0), dtype=np.int64, count=len(pieces) + 1)
        constants, impressions = begins[: len(self.constants) + 1], begins[len(self.constants) :]
        spoken = np.array(self.spoken, dtype=np.int64).reshape(-1, 2)
        data = np.frombuffer(b"".join(pieces), dtype=np.uint8)
        most_bytes, items = _most(data, impressions, int(constants[-1]))
        out, sizes = np.empty(most_bytes, dtype=np.uint8), np.empty(2 * items, dtype=np.int64)
        size, count = _write(data, impressions, constants, spoken, out, sizes)
        out.setflags(write=False)
        return Columns(out[:size], sizes[: 2 * count])


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


@njit(inline="always")
def _big_endian(data: Bytes, at: int, size: int) -> int:
    number = 0
    for k in range(size):
        number = (number << 8) | data[at + k]
    return number


@njit(cache=True, nogil=True)
def _end_of(data: Bytes, at: int) -> int:
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
            count = _big_endian(data, at, _COUNT_BYTES[kind])
            at += _COUNT_BYTES[kind] + _MORE_BYTES[kind]
            if _VALUES[kind]:
                left += count * _VALUES[kind]
            else:
                at += count
    return at


@njit(inline="always")
def _inside(data: Bytes, at: int) -> int:
    """Where the bytes of the string, or the values of the array at `at` begin."""
    first = data[at]
    return at + 1 if first < 0xC0 else at + 1 + _COUNT_BYTES[first - 0xC0]


@njit(inline="always")
def _length(data: Bytes, at: int) -> int:
    """The length of the array at `at`."""
    first = data[at]
    return first & 0x0F if first < 0xA0 else _big_endian(data, at + 1, _COUNT_BYTES[first - 0xC0])


@njit(inline="always")
def _integer(data: Bytes, at: int) -> Any:
    """The integer at `at`."""
    first: Any = np.int64(data[at])
    if first < 0x80:
        return first
    if first >= 0xE0:
        return first - 0x100
    bits = 8 << ((first - 0xCC) & 3)
    number = _big_endian(data, at + 1, bits >> 3)
    if first >= 0xD0 and bits < 64 and number >> (bits - 1):
        number -= 1 << bits
    return number


def _copier(typing: Any, data: Any, begin: Any, size: Any, out: Any, at: Any) -> Any:
    def address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
        return builder.gep(context.make_array(kind)(context, builder, array).data, [index])

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        source = address(context, builder, kinds[0], arguments[0], arguments[1])
        target = address(context, builder, kinds[3], arguments[3], arguments[4])
        cgutils.raw_memcpy(builder, target, source, arguments[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(data, types.intp, types.intp, out, types.intp), codegen


# A loop over the bytes takes twice as long: numba looks at each index.
_copy: Any = intrinsic(_copier)


@njit(inline="always")
def _copied(data: Bytes, begin: int, end: int, out: Bytes, at: int) -> int:
    """Copies bytes to `out`; where the next goes."""
    _copy(data, begin, end - begin, out, at)
    return at + end - begin


@njit(cache=True, nogil=True)
def _open(data: Bytes, at: int, fields: Numbers) -> int:
    """Writes down where each field of the impression at `at` begins, and behind them where the last ends; how many
    there are."""
    count = min(_length(data, at), _FIELDS)
    at = _inside(data, at)
    for field in range(count):
        fields[field] = at
        at = _end_of(data, at)
    fields[count] = at
    return count


@njit(cache=True, nogil=True)
def _most(data: Bytes, impressions: Numbers, constant_bytes: int) -> tuple[int, int]:
    """The most that examples of all items take with their keys, and how many these are."""
    fields = np.empty(_FIELDS + 1, dtype=np.int64)
    most, items = 0, 0
    for n in range(len(impressions) - 1):
        count = _open(data, impressions[n], fields)
        own = _MOST_OWN_BYTES + constant_bytes + fields[count] - fields[_SESSION] + fields[_ITEMS] - fields[_TS]
        own += 2 * (fields[_TS] - fields[_REQUEST]) + fields[_ITEMS] - fields[_USER]
        length = _length(data, fields[_ITEMS])
        most += length * own + fields[_SESSION] - fields[_ITEMS]
        items += length
    return most, items


@njit(inline="always")
def _write_id(data: Bytes, request: int, end: int, position: int, figures: Bytes, out: Bytes, at: int) -> int:
    """Writes an example's id: the request's, a slash, the position in digits; where the next goes."""
    rest, digits = abs(position), 0
    while rest > 9 or digits == 0:
        figures[digits] = 48 + rest % 10
        rest //= 10
        digits += 1
    if rest:
        figures[digits] = 48 + rest
        digits += 1
    if position < 0:
        figures[digits] = 45
        digits += 1
    size = end - request + 1 + digits
    if size < 32:
        out[at] = 0xA0 | size
        at += 1
    else:
        wide = 0 if size < 2**8 else (1 if size < 2**16 else 2)
        out[at] = 0xD9 + wide
        at += 1
        for place in range((1 << wide) - 1, -1, -1):
            out[at] = (size >> (8 * place)) & 0xFF
            at += 1
    at = _copied(data, request, end, out, at)
    out[at] = 47
    at += 1
    for digit in range(digits - 1, -1, -1):
        out[at] = figures[digit]
        at += 1
    return at


@njit(cache=True, nogil=True)
def _write(
    data: Bytes, impressions: Numbers, constants: Numbers, spoken: Numbers, out: Bytes, sizes: Numbers
) -> tuple[int, int]:
    """Writes the examples of all items but the `spoken` (i64 [., 2]: impression, place); their bytes and number."""
    fields, slot = np.empty(_FIELDS + 1, dtype=np.int64), np.empty(_FEATURES + 2, dtype=np.int64)
    figures = np.empty(20, dtype=np.uint8)
    at = made = passed = 0
    for n in range(len(impressions) - 1):
        known = _open(data, impressions[n], fields)
        request, user = _inside(data, fields[_REQUEST]), _inside(data, fields[_USER])
        reading = _inside(data, fields[_ITEMS])
        for k in range(_length(data, fields[_ITEMS])):
            length = _length(data, reading)
            reading = _inside(data, reading)
            for field in range(length):
                if field <= _FEATURES:
                    slot[field] = reading
                reading = _end_of(data, reading)
                if field <= _FEATURES:
                    slot[field + 1] = reading
            if passed < len(spoken) and spoken[passed, 0] == n and spoken[passed, 1] == k:
                passed += 1
                continue
            begun = at
            at = _copied(data, user, fields[_ITEMS], out, at)
            sizes[2 * made] = at - begun
            begun = at
            at = _copied(data, constants[_HEAD_AT], constants[_HEAD_AT + 1], out, at)
            at = _write_id(data, request, fields[_TS], _integer(data, slot[_POSITION]), figures, out, at)
            at = _copied(data, constants[_REVISION_AT], constants[_REVISION_AT + 1], out, at)
            # Time, user, item, labels, request, position, propensity.
            at = _copied(data, fields[_TS], fields[_ITEMS], out, at)
            at = _copied(data, slot[0], slot[1], out, at)
            at = _copied(data, constants[_LABELS_AT], constants[_LABELS_AT + 1], out, at)
            at = _copied(data, fields[_REQUEST], fields[_TS], out, at)
            at = _copied(data, slot[_POSITION], slot[_POSITION + 1], out, at)
            at = _copied(data, slot[_PROPENSITY], slot[_PROPENSITY + 1], out, at)
            # What the impression says of all items; a default for each field that it lacks.
            if known > _SCENE:
                at = _copied(data, fields[_SCENE], fields[_SCENE + 1], out, at)
            else:
                at = _copied(data, constants[_LACKING_AT + 1], constants[_LACKING_AT + 2], out, at)
            if known > _SESSION:
                at = _copied(data, fields[_SESSION], fields[_SESSION + 1], out, at)
            else:
                at = _copied(data, constants[_LACKING_AT], constants[_LACKING_AT + 1], out, at)
            if known > _CONTEXT:
                at = _copied(data, fields[_CONTEXT], fields[known], out, at)
            lacking = max(known, _CONTEXT) - _SESSION
            at = _copied(data, constants[_LACKING_AT + lacking], constants[len(constants) - 1], out, at)
            if length > _FEATURES:
                at = _copied(data, slot[_FEATURES], slot[_FEATURES + 1], out, at)
            else:
                at = _copied(data, constants[_NO_FEATURES_AT], constants[_NO_FEATURES_AT + 1], out, at)
            at = _copied(data, constants[_END_AT], constants[_END_AT + 1], out, at)
            sizes[2 * made + 1] = at - begun
            made += 1
    return at, made
