"""The items of the mirror: catalogue records, statistics and retrieval vectors, collected and written in batches."""

import time
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from features.views import ITEM_STATS as ITEM_STATS_VIEW
from online_learning.models.dense_features import ITEM_STATS
from online_learning.models.fields import Bags, FieldEncoder, Side
from online_learning.settings import ModelSettings
from serving.shared.catalogue import encode_catalogue, encode_record
from serving.shared.files import write_whole
from serving.shared.head import File, HeadWriter
from serving.shared.item_stats import ItemStatsWriter
from streams.records import FeatureRow, Item

# Readers decode the whole file: five a second at most, and never more than a twentieth of the time.
_CATALOGUE_EVERY_S: Final = 0.2
_CATALOGUE_SHARE: Final = 20.0

STATS_PREFIX: Final = f"{ITEM_STATS_VIEW.name}|".encode()
"""How the keys of item statistics on the topic `features` begin."""


class Items:
    """Slots, records and statistics of all items of one incarnation.

    Where the catalogue topic was never used, every item that was acted on may be shown; where it was, only what it
    lists (a deleted item's statistics stay behind, and must not bring it back).
    """

    def __init__(self, head: HeadWriter, settings: ModelSettings, ttl_ms: int, incarnation: int) -> None:
        self._head, self._incarnation = head, incarnation
        self._encoder = FieldEncoder(settings)
        self._stats = ItemStatsWriter(head, incarnation, ttl_ms)
        self.slots: dict[str, int] = {}
        self._ids: list[bytes] = []
        self._records: list[bytes] = []
        self._scenes: dict[str, int] = {"": 0}
        self._scene_codes: list[int] = []
        self._available: list[bool] = []
        self._listed: list[bool] = []
        self._catalogue_used = False
        self.bags: list[Bags] = []
        self._side = Side.of([], self._encoder.item_spaces)
        # Whether it holds the keys that an item had before.
        self._stale = False
        self._pending: dict[tuple[int, str], FeatureRow | None] = {}
        self._dirty = True
        self._due_s = 0.0

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, item: str, record: Item | None) -> int | None:
        """Takes an item's newest record (None: deleted); its slot where its keys are new or changed."""
        if not self._catalogue_used:
            self._catalogue_used = True
            self._available = list(self._listed)
        slot = self._slot(item)
        self._dirty = True
        self._listed[slot] = record is not None
        self._available[slot] = record is not None and record.available
        self._records[slot] = b"" if record is None else encode_record(record)
        scene = "" if record is None else record.scene
        self._scene_codes[slot] = self._scenes.setdefault(scene, len(self._scenes))
        bags = self._encoder.item_bags(item if record is None else record)
        if bags == self.bags[slot]:
            return None
        self.bags[slot] = bags
        self._stale = self._stale or slot < self._side.rows
        return slot

    def put_stats(self, item: str, arm: str, row: FeatureRow | None) -> None:
        """Takes the newest statistics of an item's arm (None: deleted); `flush_stats` writes them."""
        self._pending[self._slot(item), arm] = row

    def keep_arms(self, arms: Collection[str]) -> None:
        """Drops the statistics of all arms but these and the organic one. Raises SharedMemoryFull."""
        self._pending = {(slot, arm): row for (slot, arm), row in self._pending.items() if arm in arms or not arm}
        self._stats.keep(arms)

    def flush_stats(self) -> None:
        """Writes what `put_stats` has collected. Raises SharedMemoryFull."""
        if not self._pending:
            return
        rows = [_stats(row) for row in self._pending.values()]
        slots = np.array([slot for slot, _ in self._pending], np.int64)
        self._stats.write(
            slots,
            [arm for _, arm in self._pending],
            np.array([values for values, _, _ in rows], np.float32),
            np.array([at for _, at, _ in rows], np.int64),
            np.array([available_at for _, _, available_at in rows], np.int64),
        )
        self._pending.clear()

    def flush_catalogue(self, now_s: float) -> bool:
        """Swaps the catalogue where it changed and is due (`now_s` is monotonic); whether it did."""
        if not self._dirty or now_s < self._due_s:
            return False
        begun_s = time.monotonic()
        self._stats.make_room(len(self))
        data = encode_catalogue(
            self._incarnation,
            self._ids,
            self._records,
            list(self._scenes),
            np.array(self._scene_codes, np.int32),
            np.array(self._available, np.bool_),
            self.side(),
        )
        write_whole(self._head.next_path(File.CATALOGUE), data)
        self._head.advance(File.CATALOGUE)
        self._dirty = False
        took_s = time.monotonic() - begun_s
        self._due_s = now_s + max(_CATALOGUE_EVERY_S, _CATALOGUE_SHARE * took_s)
        return True

    def side(self) -> Side:
        """The encoded keys of all items, by slot."""
        if self._stale:
            self._side, self._stale = Side.of(self.bags, self._encoder.item_spaces), False
        known = self._side
        if known.rows < len(self):
            new = Side.of(self.bags[known.rows :], self._encoder.item_spaces)
            self._side = Side(
                np.concatenate([known.keys, new.keys]),
                np.concatenate([known.spaces, new.spaces]),
                np.concatenate([known.offsets, new.offsets[1:] + known.offsets[-1]]),
                known.rows + new.rows,
                known.fields,
            )
        return self._side

    def _slot(self, item: str) -> int:
        slot = self.slots.get(item)
        if slot is None:
            slot = self.slots[item] = len(self._ids)
            self._ids.append(item.encode())
            self._records.append(b"")
            self._scene_codes.append(0)
            self._listed.append(False)
            self._available.append(not self._catalogue_used)
            self.bags.append(self._encoder.item_bags(item))
            self._dirty = True
        return slot


def _stats(row: FeatureRow | None) -> tuple[Sequence[float], int, int]:
    """(values in the order of ITEM_STATS, at, available_at); at 0 means no row."""
    if row is None:
        return [0.0] * len(ITEM_STATS), 0, 0
    values = [float(row.values.get(name) or 0.0) for name in ITEM_STATS]
    return values, int(row.values.get("at") or row.ts), row.available_at


def incarnation_now() -> int:
    """A number that no other life of a replica on this host has."""
    return time.time_ns() & ((1 << 62) - 1)
