"""What the join says of items, gathered in columns: one record a batch and partition in place of one an item shown."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streams.outbox import partition_of
from streams.records import SCHEMA_VERSION, Signals


class SignalColumns(NamedTuple):
    """Signals decoded. `item` i64 [n] and `arm` i64 [n]: places in `items` and `arms`; `ts` i64 [n] (ms);
    `impressions` and `positives` f64 [n]; `rating` f64 [n], NaN where there is none."""

    items: list[str]
    arms: list[str]
    item: NDArray[np.int64]
    arm: NDArray[np.int64]
    ts: NDArray[np.int64]
    impressions: NDArray[np.float64]
    positives: NDArray[np.float64]
    rating: NDArray[np.float64]


class ItemPlaces:
    """Numbers that stand for items, and the partition of each; begun anew when there are too many."""

    def __init__(self, partitions: int, most: int = 200_000) -> None:
        self._partitions, self._most = partitions, most
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._places: list[int] = []

    def codes(self, items: list[str]) -> NDArray[np.int64]:
        """The numbers of items, [n]."""
        if len(self._codes) > self._most:
            self._codes, self._names, self._places = {}, [], []
        try:
            return self._known(items)
        except KeyError:
            for item in items:
                if item not in self._codes:
                    self._codes[item] = len(self._names)
                    self._names.append(item)
                    self._places.append(partition_of(item.encode(), self._partitions))
            return self._known(items)

    def _known(self, items: list[str]) -> NDArray[np.int64]:
        return np.fromiter(map(self._codes.__getitem__, items), dtype=np.int64, count=len(items))

    def names(self, codes: list[int]) -> list[str]:
        """The items of the numbers that `codes` gave last."""
        return [self._names[code] for code in codes]

    def partitions(self, codes: list[int]) -> NDArray[np.int64]:
        """Their partitions, [n]."""
        return np.array([self._places[code] for code in codes], dtype=np.int64)


class SignalLog:
    """Gathers the signals of one batch."""

    def __init__(self, places: ItemPlaces) -> None:
        self._places = places
        self._items: list[str] = []
        # One entry for all items of an impression, or for one action: arm, ts, items, impressions, positives, rating.
        self._runs: list[tuple[str, int, int, int, int, float]] = []

    def __len__(self) -> int:
        return len(self._items)

    def shown(self, items: list[str], arm: str, ts: int) -> None:
        """Each of `items` was shown once at `ts` (ms)."""
        self._items += items
        self._runs.append((arm, ts, len(items), 1, 0, math.nan))

    def acted(self, item: str, arm: str, ts: int, positive: bool, rating: float | None) -> None:
        """An action on an item: whether it is a positive, and its rating."""
        self._items.append(item)
        self._runs.append((arm, ts, 1, 0, int(positive), math.nan if rating is None else rating))

    def records(self) -> Iterator[tuple[int, Signals]]:
        """The signals as records, each with its partition: that of its items as keys."""
        if not self._items:
            return
        item, used = ranked(self._places.codes(self._items))
        codes = used.tolist()
        names, partition_of_name = self._places.names(codes), self._places.partitions(codes)
        arms: dict[str, int] = {}
        of_arm = [arms.setdefault(run[0], len(arms)) for run in self._runs]
        _, ts, sizes, impressions, positives, ratings = zip(*self._runs, strict=True)
        counts = np.array(sizes)
        columns = [
            np.repeat(np.array(values, dtype=kind), counts)
            for values, kind in (
                (of_arm, "<u4"),
                (ts, "<i8"),
                (impressions, "<u4"),
                (positives, "<u4"),
                (ratings, "<f8"),
            )
        ]
        for partition in np.unique(partition_of_name).tolist():
            mine = np.flatnonzero(partition_of_name == partition)
            place = np.zeros(len(names), dtype="<u4")
            place[mine] = np.arange(len(mine))
            here = partition_of_name[item] == partition
            yield (
                partition,
                Signals(
                    SCHEMA_VERSION,
                    [names[k] for k in mine.tolist()],
                    list(arms),
                    place[item[here]].tobytes(),
                    *(column[here].tobytes() for column in columns),
                ),
            )


def decoded(record: Signals) -> SignalColumns:
    """The columns of a record; raises ValueError where they do not fit each other."""
    item, arm, ts, impressions, positives, rating = (
        np.frombuffer(data, dtype=kind)
        for data, kind in (
            (record.item, "<u4"),
            (record.arm, "<u4"),
            (record.ts, "<i8"),
            (record.impressions, "<u4"),
            (record.positives, "<u4"),
            (record.rating, "<f8"),
        )
    )
    sizes = {len(column) for column in (item, arm, ts, impressions, positives, rating)}
    if len(sizes) != 1:
        raise ValueError(f"columns of {sorted(sizes)} signals, must be of one length")
    if len(item) and (item.max() >= len(record.items) or arm.max() >= len(record.arms)):
        raise ValueError("a signal of an item or an arm that is not named")
    return SignalColumns(
        record.items,
        record.arms,
        item.astype(np.int64),
        arm.astype(np.int64),
        ts.astype(np.int64),
        impressions.astype(np.float64),
        positives.astype(np.float64),
        rating.astype(np.float64),
    )


def ranked(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of small numbers >= 0, [n]: the place of each among those that occur, [n], and these in order.

    As `np.unique`, without sorting.
    """
    occurs = np.zeros(int(codes.max()) + 1, dtype=bool)
    occurs[codes] = True
    return (np.cumsum(occurs) - 1)[codes], np.flatnonzero(occurs)


def merged(parts: Sequence[SignalColumns]) -> SignalColumns:
    """Several as one."""
    if len(parts) == 1:
        return parts[0]
    items: dict[str, int] = {}
    arms: dict[str, int] = {}
    item = [_places(part.items, items)[part.item] for part in parts]
    arm = [_places(part.arms, arms)[part.arm] for part in parts]
    rest = [[part[k] for part in parts] for k in range(4, 8)]
    ts, impressions, positives, rating = (np.concatenate(column) if column else np.empty(0) for column in rest)
    none = np.empty(0, dtype=np.int64)
    return SignalColumns(
        list(items),
        list(arms),
        np.concatenate(item) if item else none,
        np.concatenate(arm) if arm else none,
        ts.astype(np.int64),
        impressions,
        positives,
        rating,
    )


def _places(names: list[str], known: dict[str, int]) -> NDArray[np.int64]:
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
