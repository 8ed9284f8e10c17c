"""Impressions as the join reads them: looked at as a whole, but of their items' features no lists of numbers are made.

What an item's features were goes into examples as the bytes that it came in. Making them took most of the time of
reading an impression, which in its turn was a twelfth of all that the join did.
"""

from collections.abc import Sequence
from itertools import accumulate

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from streams.codec import Unreadable
from streams.packed.compiled import kernel
from streams.packed.scan import Bytes, Numbers, end_of, inside, length_of
from streams.records import Impression, Shown
from streams.topics import IMPRESSIONS

_ITEMS, _FEATURES = Impression.__struct_fields__.index("items"), Shown.__struct_fields__.index("features")


class ShownItem(Shown, frozen=True, array_like=True, gc=False):
    """One slot of an answer, its features in msgpack."""

    features: Raw = Raw(b"\x90")  # type: ignore[assignment]


class ReadImpression(Impression, frozen=True, array_like=True):
    """An impression whose features are not unpacked."""

    items: list[ShownItem]  # type: ignore[assignment]


_decode = msgspec.msgpack.Decoder(ReadImpression).decode


def read_impressions(raws: Sequence[bytes]) -> list[ReadImpression | Unreadable]:
    """Bytes of records of `impressions`, each read or with what is wrong with it."""
    found: list[ReadImpression | Unreadable] = []
    sound: list[int] = []
    for k, raw in enumerate(raws):
        try:
            found.append(_decode(raw))
            sound.append(k)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            found.append(Unreadable(str(error)))
    for k, plain in zip(sound, _have_plain_features([raws[k] for k in sound]).tolist(), strict=True):
        if not plain:
            try:
                IMPRESSIONS.codec.decode(raws[k])
            except Unreadable as error:
                found[k] = error
    return found


def _have_plain_features(raws: Sequence[bytes]) -> NDArray[np.bool_]:
    """Of impressions that are read but for their features: whether these are arrays of floats alone, [n]."""
    begins = np.fromiter(accumulate(map(len, raws), initial=0), dtype=np.int64, count=len(raws) + 1)
    plain = np.ones(len(raws), dtype=np.bool_)
    _find_plain(np.frombuffer(b"".join(raws), dtype=np.uint8), begins, plain)
    return plain


@kernel
def _find_plain(data: Bytes, begins: Numbers, plain: Bytes) -> None:
    for n in range(len(plain)):
        at = inside(data, begins[n])
        for _ in range(_ITEMS):
            at = end_of(data, at)
        items = length_of(data, at)
        at = inside(data, at)
        for _ in range(items):
            fields = length_of(data, at)
            at = inside(data, at)
            for field in range(fields):
                if field == _FEATURES:
                    first = data[at]
                    if not (0x90 <= first < 0xA0 or first == 0xDC or first == 0xDD):
                        plain[n] = False
                        break
                    reading = inside(data, at)
                    for _ in range(length_of(data, at)):
                        if data[reading] != 0xCA and data[reading] != 0xCB:
                            plain[n] = False
                            break
                        reading = end_of(data, reading)
                at = end_of(data, at)
            if not plain[n]:
                break
