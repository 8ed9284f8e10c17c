"""A touched key is forgotten only when its newest state has been acknowledged."""

import numpy as np

from online_learning.table.settings import TableSettings
from online_learning.table.table import Table

KEY = np.array([7], np.uint64)


def learn(table: Table, version: int) -> None:
    slots = table.find_or_insert(KEY, np.zeros(1, np.uint16), 0, version)
    table.apply_gradients(slots, np.ones((1, 2), np.float32), version)


def test_an_old_acknowledgement_does_not_settle_a_newer_state_in_flight() -> None:
    table = Table(TableSettings(dim=2))
    learn(table, 1)
    assert table.take_touched().tolist() == [7]
    learn(table, 2)
    assert table.take_touched().tolist() == [7]
    assert table.confirm(KEY, 1) == 0
    assert table.touched == 1
    assert table.retry(KEY) == 1
    assert table.take_touched().tolist() == [7]
    assert table.confirm(KEY, 2) == 1
    assert table.touched == 0


def test_a_key_touched_again_while_in_flight_is_taken_again_after_the_acknowledgement() -> None:
    table = Table(TableSettings(dim=2))
    learn(table, 1)
    table.take_touched()
    learn(table, 2)
    table.confirm(KEY, 1)
    assert table.take_touched().tolist() == [7]


def test_a_removal_in_flight_and_a_row_that_came_back_are_two_things() -> None:
    table = Table(TableSettings(dim=2))
    learn(table, 1)
    table.confirm(table.take_touched(), 1)
    table.remove(KEY, 0, 2)
    assert table.take_touched().tolist() == [7]
    assert table.export(KEY).tombstones.tolist() == [7]
    learn(table, 3)
    table.confirm(KEY, 2)
    assert table.take_touched().tolist() == [7]
    assert table.export(KEY).keys.tolist() == [7]


def test_no_key_starves_when_little_is_taken_at_a_time() -> None:
    table = Table(TableSettings(dim=2))
    keys = np.arange(1, 1001, dtype=np.uint64)
    slots = table.find_or_insert(keys, np.zeros(1000, np.uint16), 0, 1)
    taken: set[int] = set()
    # Early rows are touched again all the time; ten calls of a hundred must still reach every row.
    for version in range(2, 12):
        part = table.take_touched(100)
        taken |= set(part.tolist())
        table.confirm(part, version)
        table.apply_gradients(slots[:50], np.ones((50, 2), np.float32), version)
    assert len(taken) >= 950


def test_keys_of_a_dead_epoch_are_published_as_they_are_or_as_gone() -> None:
    table = Table(TableSettings(dim=2))
    learn(table, 1)
    table.confirm(table.take_touched(), 1)
    keys = np.array([7, 8, 8], np.uint64)
    table.republish(keys, 9)
    assert sorted(table.take_touched().tolist()) == [7, 8]
    export = table.export(np.array([7, 8], np.uint64))
    assert (export.keys.tolist(), export.versions.tolist()) == ([7], [9])
    assert (export.tombstones.tolist(), export.tombstone_versions.tolist()) == ([8], [9])
