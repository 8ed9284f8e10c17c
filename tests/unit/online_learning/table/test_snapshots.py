"""Increments laid on their base, in any grouping, are the table; they hold what changed and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.table.settings import TableSettings
from online_learning.table.snapshot import TableSnapshot, merge
from online_learning.table.table import Export, Table

SETTINGS = TableSettings(dim=2)
keys = st.lists(st.integers(1, 15), max_size=8)
changes = st.lists(st.tuples(keys, keys, st.booleans()), min_size=1, max_size=8)


def changed(table: Table, seen: list[int], removed: list[int], version: int, forget: bool) -> None:
    """Insert and move some rows, remove some, and perhaps forget the tombstones that are settled."""
    slots = table.find_or_insert(np.array(seen, np.uint64), np.ones(len(seen), np.uint16), 0, version)
    table.apply_gradients(slots, np.full((len(seen), 2), version, np.float32), version)
    table.remove(np.array(removed, np.uint64), 0, version)
    table.confirm(table.take_touched(), version)
    if forget:
        table.forget_tombstones(version)


def content(table: Table) -> tuple[int, dict[int, int], dict[int, int]]:
    export: Export = table.changed_since(0)
    rows = dict(zip(export.keys.tolist(), export.versions.tolist(), strict=True))
    gone = dict(zip(export.tombstones.tolist(), export.tombstone_versions.tolist(), strict=True))
    return table.digest(), rows, gone


@given(first=keys, steps=changes)
@settings(max_examples=150)
def test_a_chain_is_the_table_however_it_is_merged(
    first: list[int], steps: list[tuple[list[int], list[int], bool]]
) -> None:
    table = Table(SETTINGS, 1)
    changed(table, first, [], 1, False)
    base = table.snapshot()
    increments: list[TableSnapshot] = []
    for version, (seen, removed, forget) in enumerate(steps, 2):
        changed(table, seen, removed, version, forget)
        increments.append(table.snapshot(whole=False))

    one_by_one = base
    for increment in increments:
        one_by_one = merge(one_by_one, increment)
    together = increments[0]
    for increment in increments[1:]:
        together = merge(together, increment)
    assert not together.whole
    digest, rows, tombstones = content(table)
    for snapshot in (one_by_one, merge(base, together), table.snapshot()):
        assert snapshot.whole
        restored = content(Table.restore(SETTINGS, snapshot))
        assert restored[:2] == (digest, rows)
        # A tombstone forgotten after the last snapshot that held it may come back: it only says what is so.
        assert tombstones.items() <= restored[2].items()
        assert not restored[2].keys() & rows.keys()


def test_an_increment_holds_only_what_changed() -> None:
    table = Table(SETTINGS, 1)
    changed(table, list(range(1, 15)), [], 1, False)
    table.snapshot()
    changed(table, [3, 4], [5], 2, False)
    increment = table.snapshot(whole=False)
    assert sorted(increment.arrays["keys"].tolist()) == [3, 4]
    assert increment.arrays["tombstone_keys"].tolist() == [5]
    assert table.snapshot(whole=False).rows == 0


def test_a_removal_that_no_snapshot_holds_yet_is_not_forgotten() -> None:
    table = Table(SETTINGS, 1)
    changed(table, [1, 2], [], 1, False)
    base = table.snapshot()
    changed(table, [], [1], 2, False)
    assert table.forget_tombstones(99) == 0
    merged = merge(base, table.snapshot(whole=False))
    assert merged.arrays["keys"].tolist() == [2]
    assert table.forget_tombstones(99) == 1


def test_a_removal_that_the_log_has_not_acknowledged_outlives_the_base_that_holds_it() -> None:
    table = Table(SETTINGS, 1)
    changed(table, [1, 2], [], 1, False)
    table.remove(np.array([1], np.uint64), 0, 2)
    base = table.snapshot()
    assert table.forget_tombstones(99) == 0
    restored = Table.restore(SETTINGS, merge(base, table.snapshot(whole=False)))
    assert restored.take_touched().tolist() == table.take_touched().tolist() == [1]


def test_increments_in_the_wrong_order_are_refused() -> None:
    table = Table(SETTINGS, 1)
    base, first, second = table.snapshot(), table.snapshot(whole=False), table.snapshot(whole=False)
    with pytest.raises(ValueError, match="builds on"):
        merge(base, second)
    with pytest.raises(ValueError, match="merge it with its base"):
        Table.restore(SETTINGS, first)
