"""Signals in columns count what one by one would, whatever the batches, the partitions and the memory."""

import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.aggregates import ItemStats
from streams.item_counts import ItemCounts
from streams.local_state import opened
from streams.outbox import partition_of
from streams.records import SCHEMA_VERSION, Signals
from streams.signals import ItemPlaces, SignalLog, decoded, merged
from streams.topics import SIGNALS

T0 = 1_700_000_000_000
MEMORY_BYTES = 2**20
ITEMS = [f"i{k}" for k in range(6)]
ratings = st.one_of(st.none(), st.floats(1, 5))
signals = st.lists(
    st.tuples(
        st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4),
        st.sampled_from(["", "online"]),
        st.integers(0, 10_000_000),
        st.booleans(),
        ratings,
    ),
    max_size=12,
)


@given(st.lists(signals, max_size=4), st.sampled_from([1, 2]), st.sampled_from([1, 2**20]))
@settings(max_examples=60)
def test_counts_are_those_of_adding_one_by_one(
    batches: list[list[tuple[list[str], str, int, bool, float | None]]], at_once: int, memory_bytes: int
) -> None:
    expected: dict[tuple[str, str], ItemStats] = {}
    places = ItemPlaces(2, most=4)
    logs = []
    for batch in batches:
        log = SignalLog(places)
        for items, arm, ts, positive, rating in batch:
            log.shown(items, arm, T0 + ts)
            for item in items:
                expected.setdefault((item, arm), ItemStats()).add(T0 + ts, impressions=1)
            log.acted(items[0], arm, T0 + ts + 5, positive, rating)
            expected[items[0], arm].add(T0 + ts + 5, positives=int(positive), rating=rating)
        logs.append(dict(log.records()))
    for partition in (0, 1):
        mine = [record[partition] for record in logs if partition in record]
        with tempfile.TemporaryDirectory() as folder:
            disk = opened(Path(folder) / "state", MEMORY_BYTES)
            counts = ItemCounts(disk, memory_bytes)
            got: dict[tuple[str, str], ItemStats] = {}
            for k in range(0, len(mine), at_once):
                sent = [SIGNALS.codec.decode(SIGNALS.codec.encode(record)) for record in mine[k : k + at_once]]
                got |= counts.add(merged([decoded(record) for record in sent]))
                disk.apply(counts.drain(), None)
                counts.settle()
            disk.close()
        wanted = {place: stats for place, stats in expected.items() if partition_of(place[0].encode(), 2) == partition}
        assert got.keys() == wanted.keys()
        for place, stats in wanted.items():
            assert msgspec.structs.astuple(got[place]) == pytest.approx(msgspec.structs.astuple(stats), rel=1e-9)


def test_columns_that_do_not_fit_are_refused() -> None:
    one = np.zeros(1, dtype="<u4").tobytes()
    times = np.zeros(1, dtype="<i8").tobytes()
    good = Signals(SCHEMA_VERSION, ["i"], [""], one, one, times, one, one, np.zeros(1).tobytes())
    assert decoded(good).items == ["i"]
    with pytest.raises(ValueError, match="one length"):
        decoded(msgspec.structs.replace(good, ts=times * 2))
    with pytest.raises(ValueError, match="not named"):
        decoded(msgspec.structs.replace(good, items=[]))
