"""The items on this host: ids, scenes, availability, records, and their keys as the model encodes them.

An item has a slot, its place in every array here, in the item statistics and in the retrieval vectors. Slots are only
added, until the replica is started anew: then the `incarnation` differs, and everything with slots is new.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import Side
from streams.records import Item


class StoredCatalogue(msgspec.Struct, frozen=True, array_like=True):
    """The file: numbers as little-endian bytes, texts as one blob with the ends of each."""

    incarnation: int
    ids: bytes
    id_ends: bytes
    records: bytes
    record_ends: bytes
    scenes: list[str]
    scene_codes: bytes
    available: bytes
    keys: bytes
    key_spaces: bytes
    key_offsets: bytes
    fields: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(StoredCatalogue)
_RECORD_ENCODER = msgspec.msgpack.Encoder()
_RECORD_DECODER = msgspec.msgpack.Decoder(Item)


def encode_record(item: Item) -> bytes:
    """An item as the catalogue holds it."""
    return _RECORD_ENCODER.encode(item)


def encode_catalogue(
    incarnation: int,
    ids: Sequence[bytes],
    records: Sequence[bytes],
    scenes: Sequence[str],
    scene_codes: NDArray[np.int32],
    available: NDArray[np.bool_],
    side: Side,
) -> bytes:
    """The file's bytes; `ids` (UTF-8), `records` (`encode_record`, empty: not in the catalogue), `scene_codes` and
    `available` [n] by slot, `side` the encoded keys of n rows."""
    return _ENCODER.encode(
        StoredCatalogue(
            incarnation=incarnation,
            ids=b"".join(ids),
            id_ends=_ends(ids),
            records=b"".join(records),
            record_ends=_ends(records),
            scenes=list(scenes),
            scene_codes=scene_codes.astype("<i4").tobytes(),
            available=available.astype(np.uint8).tobytes(),
            keys=side.keys.astype("<u8").tobytes(),
            key_spaces=side.spaces.astype("<u2").tobytes(),
            key_offsets=side.offsets.astype("<i8").tobytes(),
            fields=side.fields,
        )
    )


class Catalogue:
    """All items by slot; what the last `Mirror.refresh` found.

    ids: list[str] [n]; index: id -> slot; scene_codes i32 [n], positions in `scenes`; available bool [n]; keys: the
    item fields of every item (`Side` of n rows). A newer catalogue extends `ids` and `index` of the one before: take
    `mirror.catalogue` once per request, after `refresh`.
    """

    def __init__(self, data: bytes | None = None, before: "Catalogue | None" = None) -> None:
        self.incarnation = 0
        self.ids: list[str] = []
        self.index: dict[str, int] = {}
        self.scenes: list[str] = []
        self.scene_codes: NDArray[np.int32] = np.empty(0, np.int32)
        self.available: NDArray[np.bool_] = np.empty(0, np.bool_)
        self.keys = Side(np.empty(0, np.uint64), np.empty(0, np.uint16), np.zeros(1, np.int64), 0, 0)
        self._records: tuple[bytes, list[int]] = (b"", [0])
        self._decoded: dict[int, Item | None] = {}
        if data is not None:
            self._load(_DECODER.decode(data), before)

    def __len__(self) -> int:
        return len(self.available)

    def scene(self, name: str) -> int:
        """The code of a scene, -1 for one that no item has."""
        return self.scenes.index(name) if name in self.scenes else -1

    def item(self, item: str) -> Item | None:
        """An item's latest record, None where the catalogue topic has none: an `ItemLookup` for the encoder."""
        slot = self.index.get(item)
        if slot is None or slot >= len(self):
            return None
        if slot not in self._decoded:
            blob, ends = self._records
            record = blob[ends[slot] : ends[slot + 1]]
            self._decoded[slot] = _RECORD_DECODER.decode(record) if record else None
        return self._decoded[slot]

    def _load(self, stored: StoredCatalogue, before: "Catalogue | None") -> None:
        self.incarnation = stored.incarnation
        ends = _starts(stored.id_ends)
        if before is not None and before.incarnation == stored.incarnation:
            self.ids, self.index = before.ids, before.index
        for slot in range(len(self.ids), len(ends) - 1):
            item = stored.ids[ends[slot] : ends[slot + 1]].decode()
            self.ids.append(item)
            self.index[item] = slot
        self._records = (stored.records, _starts(stored.record_ends))
        self.scenes = stored.scenes
        self.scene_codes = np.frombuffer(stored.scene_codes, "<i4")
        self.available = np.frombuffer(stored.available, np.uint8).astype(np.bool_)
        self.keys = Side(
            np.frombuffer(stored.keys, "<u8"),
            np.frombuffer(stored.key_spaces, "<u2"),
            np.frombuffer(stored.key_offsets, "<i8"),
            len(self.available),
            stored.fields,
        )


def decode_catalogue(data: bytes, before: Catalogue | None = None) -> Catalogue:
    """The catalogue of a file's bytes; `before` of the same incarnation spares decoding its ids again."""
    return Catalogue(data, before)


def _ends(texts: Sequence[bytes]) -> bytes:
    return np.cumsum([len(text) for text in texts], dtype="<i8").tobytes()


def _starts(ends: bytes) -> list[int]:
    return [0, *np.frombuffer(ends, "<i8").tolist()]
