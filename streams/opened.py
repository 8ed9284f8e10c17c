"""An impression opened only as far as the join needs: what its examples repeat stays as bytes, to be copied."""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from streams.records import Assignment, ModelVersion

_NIL, _EMPTY_TEXT, _EMPTY_MAP, _EMPTY_LIST = Raw(b"\xc0"), Raw(b"\xa0"), Raw(b"\x80"), Raw(b"\x90")
_NO_MODEL: Final = Raw(msgspec.msgpack.encode(ModelVersion()))
_arms = msgspec.msgpack.Decoder(list[Assignment]).decode


class OpenedSlot(Struct, array_like=True, frozen=True, gc=False):
    """`records.Shown`, field by field; what is not copied is cheaper as a value than as bytes."""

    item: str
    position: int
    score: float
    propensity: Raw
    source: str
    explored: bool
    features: Raw = _EMPTY_LIST


class Opened(Struct, array_like=True, frozen=True, gc=False):
    """`records.Impression`, field by field; holds on to the bytes that it was decoded from."""

    v: int
    request_id: str
    ts: int
    user: str
    items: list[OpenedSlot]
    session: Raw = _NIL
    scene: Raw = _EMPTY_TEXT
    context: Raw = _EMPTY_MAP
    arms: Raw = _EMPTY_LIST
    policy: Raw = _EMPTY_TEXT
    model: Raw = _NO_MODEL
    user_features: Raw = _NIL

    def example_id(self, k: int) -> str:
        """The id of the example of the item at index `k`."""
        return f"{self.request_id}/{self.items[k].position}"

    def arm(self) -> str:
        """The arm whose traffic it is: that of its first experiment, "" where it is in none."""
        if bytes(self.arms) == b"\x90":
            return ""
        arms = _arms(self.arms)
        return arms[0].arm if arms else ""


opened = msgspec.msgpack.Decoder(Opened).decode
"""Bytes of a record of `impressions`, known to be readable, to an Opened."""
