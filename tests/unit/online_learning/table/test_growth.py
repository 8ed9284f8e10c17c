"""Growing: rows never move, memory stays near what was promised, every key stays where it can be found."""

import numpy as np
import pytest

from online_learning.table.directory import MOST_BYTES
from online_learning.table.index import MAX_LOAD, SEGMENT
from online_learning.table.settings import InitializerKind, InitializerSettings, OptimizerSettings, TableSettings
from online_learning.table.table import Table


def grown(rows: int) -> tuple[Table, np.ndarray, np.ndarray]:
    table = Table(TableSettings(dim=1, initializer=InitializerSettings(kind=InitializerKind.UNIFORM)))
    keys = np.random.default_rng(rows).permutation(np.arange(1, rows + 1, dtype=np.uint64))
    slots = np.concatenate(
        [
            table.find_or_insert(part, np.zeros(len(part), np.uint16), 0, 1)
            for part in np.array_split(keys, max(1, rows // 10_000))
        ]
    )
    return table, keys, slots


@pytest.mark.parametrize("rows", [1, SEGMENT // 2, SEGMENT, 10 * SEGMENT, 300_000])
def test_slots_given_before_growth_hold_after_it(rows: int) -> None:
    table, keys, slots = grown(rows)
    assert np.array_equal(table.find(keys), slots)
    assert len(np.unique(slots)) == rows
    assert (table.find(keys + np.uint64(rows)) == -1).all()


@pytest.mark.parametrize("rows", [3_000, 30_000, 300_000])
def test_the_index_is_never_fuller_than_promised_and_a_row_costs_at_most_43_bytes_at_that_load(rows: int) -> None:
    stats = grown(rows)[0].stats()
    assert stats.load <= MAX_LOAD
    assert stats.overhead_at_full_load <= 43
    # Most keys stand in their first line, of five places.
    assert stats.probe_mean < 0.5


@pytest.mark.parametrize("tenths", range(10, 20))
def test_a_row_never_costs_more_than_is_reckoned_with_where_memory_ends(tenths: int) -> None:
    # From one size to its double the index is as empty, and as full, as it ever is.
    rows = 3_000 * tenths
    parts = grown(rows)[0].stats().bytes_by_part
    # Besides, four bytes a row once it is freed.
    assert parts["headers"] + parts["index"] <= (MOST_BYTES - 4) * rows


def test_removing_and_inserting_for_long_does_not_wear_the_index_out() -> None:
    table = Table(TableSettings(dim=1))
    rng = np.random.default_rng(3)
    alive = rng.integers(1, 2**63, 5_000).astype(np.uint64)
    table.find_or_insert(alive, np.zeros(len(alive), np.uint16), 0, 1)
    for version in range(2, 42):
        table.remove(alive[:1000], 0, version)
        fresh = rng.integers(1, 2**63, 1000).astype(np.uint64)
        table.find_or_insert(fresh, np.zeros(1000, np.uint16), 0, version)
        alive = np.concatenate([alive[1000:], fresh])
        table.snapshot()
        table.confirm(table.take_touched(), version)
        table.forget_tombstones(version + 1)
    stats = table.stats()
    assert (table.find(alive) >= 0).all()
    assert stats.rows == 5_000
    assert stats.slots <= 6_000
    assert stats.tombstones == 0
    assert stats.probe_mean < 0.5


def test_keys_chosen_to_collide_without_the_seed_do_not() -> None:
    # Keys that differ only in bits that a weak hash drops: multiples of a large power of two.
    keys = np.arange(1, 50_001, dtype=np.uint64) << np.uint64(40)
    table = Table(TableSettings(dim=1, optimizer=OptimizerSettings()), seed=99)
    slots = table.find_or_insert(keys, np.zeros(len(keys), np.uint16), 0, 1)
    assert np.array_equal(table.find(keys), slots)
    assert table.stats().probe_mean < 2.5
