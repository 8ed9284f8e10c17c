"""Batches that several threads share: the same slots, rows, headers and steps as one thread makes of them."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from online_learning.table.directory import SHARED_FROM
from online_learning.table.headers import HEADER_WORDS
from online_learning.table.settings import (
    AdmissionPolicy,
    AdmissionSettings,
    EvictionPolicy,
    EvictionSettings,
    FullPolicy,
    InitializerSettings,
    OptimizerKind,
    OptimizerSettings,
    TableSettings,
)
from online_learning.table.table import Table

DIM = 5
ONE = TableSettings(dim=DIM, threads=1)
# Enough rows that the index has a chunk of SHARED_FROM keys in a sixteenth of its places.
START = 120_000


def keys_of(rng: np.random.Generator, count: int, distinct: int) -> NDArray[np.uint64]:
    """Keys with repeats, of a pool of `distinct`."""
    return rng.integers(1, distinct + 1, count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def spaces_of(keys: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """A key space that depends on the key."""
    return (keys % np.uint64(11)).astype(np.uint16)


def pair(rule: TableSettings) -> tuple[Table, Table]:
    """The same table for one thread and for two."""
    return Table(rule, 7), Table(msgspec.structs.replace(rule, threads=2), 7)


def assert_equal(one: Table, two: Table) -> None:
    """All that a table notes is the same in both."""
    a, b = one._directory, two._directory
    used = a.slots_used
    assert b.slots_used == used
    assert np.array_equal(a.counters, b.counters)
    assert np.array_equal(a.headers[: used * HEADER_WORDS], b.headers[: used * HEADER_WORDS])
    assert np.array_equal(a.flags[:used], b.flags[:used])
    assert np.array_equal(a.blocks[: used // 64 + 1], b.blocks[: used // 64 + 1])
    assert one.digest() == two.digest()
    assert (one.stats().refused, one.stats().unadmitted) == (two.stats().refused, two.stats().unadmitted)


POLICIES = {
    "always": ONE,
    "count": msgspec.structs.replace(
        ONE, admission=AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=2, counters=1 << 20)
    ),
    "probability": msgspec.structs.replace(
        ONE, admission=AdmissionSettings(policy=AdmissionPolicy.PROBABILITY, probability=0.6)
    ),
    "refuse": msgspec.structs.replace(ONE, max_rows=130_000, full=FullPolicy.REFUSE),
    "evict": msgspec.structs.replace(
        ONE, max_rows=130_000, full=FullPolicy.EVICT, eviction=EvictionSettings(policy=EvictionPolicy.LRU)
    ),
}


@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32), unseen=st.sampled_from([0.0, 0.1, 1.0]))
def test_find_or_insert_by_two_threads_equals_one(policy: str, seed: int, unseen: float) -> None:
    rng = np.random.default_rng(seed)
    one, two = pair(POLICIES[policy])
    start = keys_of(rng, START, 10**9)
    for table in (one, two):
        # Twice: the counting filter admits at the second sighting.
        table.find_or_insert(start, spaces_of(start), 1_000, 1)
        table.find_or_insert(start, spaces_of(start), 1_000, 1)
    gone = start[:: int(rng.integers(2, 50))]
    for table in (one, two):
        table.remove(gone, 2_000, 2)
    for step in range(3):
        fresh = keys_of(rng, round(20_000 * unseen), 30_000)
        batch = rng.permutation(np.concatenate([fresh, rng.choice(start, 30_000 - len(fresh))]))
        slots = [table.find_or_insert(batch, spaces_of(batch), 3_000 + step, 3 + step) for table in (one, two)]
        assert np.array_equal(*slots)
        found = slots[0] >= 0
        # One key, one slot; one slot, one key.
        assert len(np.unique(batch[found])) == len(np.unique(slots[0][found]))
        assert_equal(one, two)


def test_a_chunk_is_really_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    _, two = pair(ONE)
    start = np.arange(1, START + 1, dtype=np.uint64)
    two.find_or_insert(start, spaces_of(start), 0, 1)
    shared: list[int] = []
    plain = two._directory._upsert_shared

    def noted(keys: NDArray[np.uint64], *rest: Any) -> NDArray[np.int64]:
        shared.append(len(keys))
        return plain(keys, *rest)

    monkeypatch.setattr(two._directory, "_upsert_shared", noted)
    two.find_or_insert(start[:SHARED_FROM], spaces_of(start[:SHARED_FROM]), 0, 2)
    assert shared == [SHARED_FROM]


@given(seed=st.integers(0, 2**32), dim=st.sampled_from([1, 5, 15, 16, 17, 32, 33, 48, 64]))
@settings(max_examples=16)
def test_lookup_is_find_and_gather_and_agrees_with_a_dict(seed: int, dim: int) -> None:
    rng = np.random.default_rng(seed)
    table = Table(TableSettings(dim=dim, initializer=InitializerSettings(scale=1.0)), seed)
    there = np.unique(keys_of(rng, 4_000, 10**6))
    table.find_or_insert(there, spaces_of(there), 0, 1)
    known = {int(key): row for key, row in zip(there, table.gather(table.find(there)).copy(), strict=True)}
    asked = rng.permutation(np.concatenate([there, keys_of(rng, 2_000, 10**7), np.zeros(3, np.uint64)]))
    slots, rows = table.lookup(asked)
    assert np.array_equal(slots, table.find(asked))
    assert np.array_equal(slots >= 0, np.isin(asked, there))
    nothing = np.zeros(dim, np.float32)
    assert np.array_equal(rows, np.array([known.get(int(key), nothing) for key in asked]))
    out = np.full((len(asked), dim), np.nan, np.float32)
    assert table.lookup(asked, out)[1] is out
    assert np.array_equal(out, rows)


@pytest.mark.parametrize("kind", list(OptimizerKind))
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_pooled_gradients_step_rows_as_spread_ones_do_byte_for_byte(kind: OptimizerKind, mode: str) -> None:
    rng = np.random.default_rng(5)
    rule = TableSettings(dim=17, optimizer=OptimizerSettings(kind=kind, learning_rate=0.1), threads=1)
    spread, pooled = Table(rule, 3), Table(msgspec.structs.replace(rule, threads=2), 3)
    keys = keys_of(rng, 6_000, 2_500)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, len(keys), 1_999)), [len(keys)]])
    for version in range(1, 4):
        grads = rng.normal(size=(2_000, 17)).astype(np.float32)
        slots = spread.find_or_insert(keys, spaces_of(keys), 0, version)
        assert np.array_equal(slots, pooled.find_or_insert(keys, spaces_of(keys), 0, version))
        slots[::7] = -1
        by_key = spread.spread_gradients(slots, offsets, grads, mode)  # type: ignore[arg-type]
        touched = spread.apply_gradients(slots, by_key, version)
        again = pooled.apply_pooled_gradients(slots, offsets, grads, version, mode)  # type: ignore[arg-type]
        assert np.array_equal(touched, again)
        assert spread.digest() == pooled.digest()


def test_slots_outside_all_bags_take_no_step() -> None:
    table = Table(TableSettings(dim=2))
    keys = np.arange(1, 5, dtype=np.uint64)
    slots = table.find_or_insert(keys, spaces_of(keys), 0, 1)
    touched = table.apply_pooled_gradients(slots, np.array([1, 3]), np.ones((1, 2), np.float32), 2)
    assert np.array_equal(touched, slots[1:3])


def test_memory_prepared_changes_nothing_but_when_it_is_taken() -> None:
    plain, prepared = pair(ONE)
    first = np.arange(1, 1001, dtype=np.uint64)
    for table in (plain, prepared):
        table.find_or_insert(first, spaces_of(first), 0, 1)
    prepared.prepare(200_000)
    assert np.array_equal(plain.find(first), prepared.find(first))
    index_bytes = prepared.stats().bytes_by_part["index"]
    assert index_bytes > plain.stats().bytes_by_part["index"]
    more = np.arange(500, 190_000, dtype=np.uint64)
    for table in (plain, prepared):
        table.find_or_insert(more, spaces_of(more), 0, 2)
    assert_equal(plain, prepared)
    assert prepared.stats().bytes_by_part["index"] == index_bytes
