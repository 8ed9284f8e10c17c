"""Counts of items per arm, brought up to date a batch of signals at a time."""

from typing import Final

import msgspec
import numpy as np

from streams.aggregates import ItemStats
from streams.decay import DAY_MS, HOUR_MS
from streams.kept import Kept, Written
from streams.local_state import LocalState
from streams.signals import SignalColumns, ranked

_ITEM: Final = b"c/"
# A row with its key, in memory (measured).
_ITEM_BYTES: Final = 350
Place = tuple[str, str]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ItemStats).decode


class ItemCounts:
    """The counts of the items of one partition, on disk as far as they do not fit in `memory_bytes`."""

    def __init__(self, disk: LocalState, memory_bytes: int) -> None:
        self._disk = disk
        self._kept: Kept[ItemStats] = Kept(memory_bytes, self._load, self._dump, lambda _: _ITEM_BYTES)

    def add(self, signals: SignalColumns) -> dict[Place, ItemStats]:
        """Counts signals; what changed, by item and arm.

        Decayed counts are linear: those of one row are summed as they stand at its newest time.
        """
        if not len(signals.item):
            return {}
        row, codes = ranked(signals.item * len(signals.arms) + signals.arm)
        pairs = [divmod(code, len(signals.arms)) for code in codes.tolist()]
        places = [(signals.items[item], signals.arms[arm]) for item, arm in pairs]
        stats = [self._kept.get(place) or ItemStats() for place in places]
        n = len(stats)
        at = np.array([one.at for one in stats], dtype=np.int64)
        newest = at.copy()
        np.maximum.at(newest, row, signals.ts)
        ages = (newest[row] - signals.ts).astype(np.float64)
        sums = {}
        for name, half_life_ms in (("1h", HOUR_MS), ("1d", DAY_MS)):
            weight = np.exp2(-ages / half_life_ms)
            fade = np.exp2(-(newest - at).astype(np.float64) / half_life_ms)
            for kind, values in (("impressions", signals.impressions), ("positives", signals.positives)):
                before = np.array([getattr(one, f"{kind}_{name}") for one in stats])
                sums[f"{kind}_{name}"] = (before * fade + np.bincount(row, values * weight, n)).tolist()
        rated = ~np.isnan(signals.rating)
        ratings = np.bincount(row, np.where(rated, signals.rating, 0.0), n).tolist()
        rating_counts = np.bincount(row[rated], minlength=n).tolist()
        counts, ats = np.bincount(row, minlength=n).tolist(), newest.tolist()
        columns = zip(places, stats, *sums.values(), ratings, rating_counts, ats, counts, strict=True)
        for place, one, shown_1h, positives_1h, shown_1d, positives_1d, rating, rating_count, ts, count in columns:
            one.impressions_1h, one.positives_1h = shown_1h, positives_1h
            one.impressions_1d, one.positives_1d = shown_1d, positives_1d
            one.rating_sum += rating
            one.rating_count += rating_count
            one.at = ts
            one.version += count
            self._kept.put(place, one)
        return dict(zip(places, stats, strict=True))

    def drain(self) -> Written:
        """The changes since the last drain."""
        changes: Written = {}
        self._kept.drain(changes)
        return changes

    def settle(self) -> None:
        """Says that what was drained is on disk."""
        self._kept.settle()

    def figures(self) -> dict[str, int]:
        """How much is remembered and where, by name, for metrics."""
        return {
            "cached_bytes": self._kept.memory_bytes,
            "disk_bytes": self._disk.disk_bytes(),
            "loads": self._kept.loads,
            "spilled": self._kept.spilled,
        }

    def _load(self, place: Place) -> ItemStats | None:
        found = self._disk.get(_key(place))
        return _decode(found) if found is not None else None

    @staticmethod
    def _dump(place: Place, stats: ItemStats | None, changes: Written) -> None:
        changes[_key(place)] = None if stats is None else _encode(stats)


def _key(place: Place) -> bytes:
    return _ITEM + _encode(place)
