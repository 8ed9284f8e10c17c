"""Who gets a row, who loses it, and what a full table answers."""

import numpy as np
import pytest

from online_learning.table.directory import MOST_BYTES
from online_learning.table.headers import PROTECTED
from online_learning.table.memory import reserve
from online_learning.table.settings import (
    AdmissionPolicy,
    AdmissionSettings,
    EvictionPolicy,
    EvictionSettings,
    FullPolicy,
    InitializerKind,
    InitializerSettings,
    TableSettings,
)
from online_learning.table.table import Table, TableFull
from online_learning.table.tombstones import TombstonesFull


def keys_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.uint64)


def insert(table: Table, keys: np.ndarray, now_s: int = 0, version: int = 1, space: int = 0) -> np.ndarray:
    return table.find_or_insert(keys, np.full(len(keys), space, np.uint16), now_s * 1000, version)


def there(table: Table, keys: np.ndarray) -> list[int]:
    return keys[table.find(keys) >= 0].tolist()


def bounded(full: FullPolicy, eviction: EvictionPolicy = EvictionPolicy.NONE, rows: int = 10) -> Table:
    ttl_s = 60.0 if eviction is EvictionPolicy.TTL else 0.0
    return Table(
        TableSettings(
            dim=2,
            max_rows=rows,
            full=full,
            eviction=EvictionSettings(policy=eviction, ttl_s=ttl_s, fraction=0.2),
        )
    )


# ---- admission


def test_a_key_gets_its_row_at_the_threshold_and_not_before() -> None:
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=3, counters=1 << 16)
    table = Table(TableSettings(dim=2, admission=rule))
    keys = np.arange(1, 1001, dtype=np.uint64)
    assert (insert(table, keys) == -1).all()
    assert (insert(table, keys) == -1).all()
    assert (insert(table, keys) >= 0).all()
    assert table.stats().unadmitted == 2000


def test_sightings_within_one_batch_count() -> None:
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=3)
    table = Table(TableSettings(dim=2, admission=rule))
    slots = insert(table, keys_of(7, 7, 7, 7))
    assert (slots[:2] == -1).all()
    assert (slots[2:] == slots[2]).all()
    assert slots[2] >= 0


def counting(threshold: int, width: int = 1 << 10) -> tuple[Table, int]:
    """A table that counts sightings, and its filter's period."""
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=threshold, counters=width)
    return Table(TableSettings(dim=1, admission=rule)), width * (threshold - 1) // 2


@pytest.mark.parametrize("threshold", [2, 10])
def test_of_keys_that_come_once_the_counting_filter_admits_one_percent_however_long_the_stream(threshold: int) -> None:
    table, period = counting(threshold)
    keys = np.arange(1, 60 * period + 1, dtype=np.uint64)
    admitted = insert(table, keys) >= 0
    assert admitted[30 * period :].mean() <= 0.01


@pytest.mark.parametrize("threshold", [2, 10])
def test_the_counting_filter_is_late_only_where_counters_were_halved_between_sightings(threshold: int) -> None:
    table, period = counting(threshold)
    share, trials, late = 0.1, 300, 0
    sightings = np.linspace(0, int(share * period) - 1, threshold).astype(int)
    unique = iter(range(1, 1 << 40))
    for trial in range(trials):
        # By the golden ratio of a period the next time: trials begin all over it.
        stream = np.fromiter(unique, np.uint64, int(1.618 * period))
        stream[sightings] = np.uint64((1 << 41) + trial)
        late += int(insert(table, stream)[sightings[-1]] < 0)
    assert 0 < late / trials <= share + 2 / trials


def test_a_sighting_is_admitted_with_the_stated_probability_and_the_same_again_on_a_replay() -> None:
    settings = TableSettings(dim=1, admission=AdmissionSettings(policy=AdmissionPolicy.PROBABILITY, probability=0.25))
    keys = np.arange(1, 20_001, dtype=np.uint64)
    first, second, other = Table(settings, 1), Table(settings, 1), Table(settings, 2)
    admitted = insert(first, keys) >= 0
    # 5 standard deviations of a binomial share
    assert abs(admitted.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / len(keys))
    assert np.array_equal(insert(second, keys) >= 0, admitted)
    assert not np.array_equal(insert(other, keys) >= 0, admitted)
    # A key that was not lucky may be so the next time.
    assert (insert(first, keys[~admitted]) >= 0).any()


def test_an_unadmitted_key_gathers_zeros_and_its_slot_says_so() -> None:
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=2)
    table = Table(TableSettings(dim=3, admission=rule))
    slots = insert(table, keys_of(1))
    assert slots.tolist() == [-1]
    assert not table.gather(slots).any()
    assert len(table.apply_gradients(slots, np.ones((1, 3), np.float32), 2)) == 0


# ---- eviction


def test_rows_expire_after_their_spaces_time_to_live() -> None:
    rule = EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=100, ttl_s_of_space={2: 10, 3: 0})
    table = Table(TableSettings(dim=1, eviction=rule))
    for space in (1, 2, 3):
        insert(table, keys_of(space), space=space)
    assert table.evict(9_999, 2) == 0
    assert table.evict(10_000, 2) == 1
    assert there(table, keys_of(1, 2, 3)) == [1, 3]
    assert table.evict(100_000, 3) == 1
    assert table.evict(10**12, 4) == 0
    assert there(table, keys_of(1, 2, 3)) == [3]


def test_being_seen_again_keeps_a_row() -> None:
    table = Table(TableSettings(dim=1, eviction=EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=100)))
    insert(table, keys_of(1, 2))
    insert(table, keys_of(2), now_s=50)
    table.evict(120_000, 2)
    assert there(table, keys_of(1, 2)) == [2]


def test_lru_lets_the_longest_unseen_go() -> None:
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LRU)
    for number in range(1, 11):
        insert(table, keys_of(number), now_s=number)
    insert(table, keys_of(1), now_s=11)
    assert insert(table, keys_of(11), now_s=12)[0] >= 0
    # A fifth of ten rows goes at once: 2 and 3, since 1 was seen again.
    assert there(table, np.arange(1, 12, dtype=np.uint64)) == [1, 4, 5, 6, 7, 8, 9, 10, 11]


def test_lfu_lets_the_least_often_seen_go() -> None:
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LFU)
    for number in range(1, 11):
        for _ in range(12 - number):
            insert(table, keys_of(number), now_s=number)
    assert insert(table, keys_of(11), now_s=12)[0] >= 0
    assert there(table, np.arange(1, 12, dtype=np.uint64)) == [1, 2, 3, 4, 5, 6, 7, 8, 11]


def test_evicted_keys_leave_tombstones_and_reach_the_export() -> None:
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LRU)
    for number in range(1, 11):
        insert(table, keys_of(number), now_s=number, version=number)
    insert(table, keys_of(11), now_s=12, version=12)
    export = table.changed_since(11)
    assert export.keys.tolist() == [11]
    assert sorted(export.tombstones.tolist()) == [1, 2]
    assert export.tombstone_versions.tolist() == [12, 12]
    assert {1, 2, 11} <= set(table.take_touched().tolist())


def test_a_growing_table_is_trimmed_to_its_planned_size() -> None:
    table = Table(TableSettings(dim=1, max_rows=5, eviction=EvictionSettings(policy=EvictionPolicy.LRU, fraction=0.5)))
    for number in range(1, 9):
        insert(table, keys_of(number), now_s=number)
    assert len(table) == 8
    assert table.evict(10_000, 2) == 3
    assert there(table, np.arange(1, 9, dtype=np.uint64)) == [4, 5, 6, 7, 8]


# ---- full


def test_a_full_table_refuses_loudly() -> None:
    table = bounded(FullPolicy.REFUSE)
    slots = insert(table, np.arange(1, 14, dtype=np.uint64))
    assert (slots[:10] >= 0).all()
    assert slots[10:].tolist() == [-1, -1, -1]
    assert table.stats().refused == 3
    table.remove(keys_of(1), 0, 2)
    assert insert(table, keys_of(13))[0] >= 0


def test_a_full_table_never_evicts_a_row_of_the_batch_it_makes_room_for() -> None:
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LRU)
    insert(table, np.arange(1, 11, dtype=np.uint64), now_s=0)
    batch = np.arange(6, 15, dtype=np.uint64)
    slots = insert(table, batch, now_s=0)
    assert (slots >= 0).all()
    assert there(table, batch) == batch.tolist()
    assert len(np.unique(slots)) == len(slots)


def test_what_does_not_fit_even_then_is_refused() -> None:
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LRU)
    slots = insert(table, np.arange(1, 21, dtype=np.uint64))
    assert (slots >= 0).sum() == 10
    assert table.stats().refused == 10


@pytest.mark.parametrize("policy", [EvictionPolicy.LRU, EvictionPolicy.LFU, EvictionPolicy.TTL])
def test_a_bounded_table_stays_bounded_under_churn(policy: EvictionPolicy) -> None:
    table = bounded(FullPolicy.EVICT, policy, rows=3000)
    rng = np.random.default_rng(1)
    for step in range(60):
        keys = rng.integers(1, 100_000, 700).astype(np.uint64)
        slots = insert(table, keys, now_s=step, version=step + 1)
        assert (slots >= 0).all()
        assert np.array_equal(table.find(keys), slots)
        assert len(table) <= 3000
    assert table.stats().slots <= 3000


def small(monkeypatch: pytest.MonkeyPatch) -> Table:
    """A table that grows as far as memory goes, which is to 5,000 rows of 2 f32 and as many of Adagrad's."""
    monkeypatch.setattr("online_learning.table.table.usable_bytes", lambda: 5_000 * (16 + MOST_BYTES))
    return Table(TableSettings(dim=2), 1)


def test_a_table_out_of_memory_says_so_and_keeps_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = small(monkeypatch)
    insert(table, np.arange(1, 4001, dtype=np.uint64))
    before = table.digest()
    with pytest.raises(TableFull, match="all that fit in memory"):
        insert(table, np.arange(4000, 8000, dtype=np.uint64))
    assert len(table) == 5000
    table.remove(np.arange(4001, 5001, dtype=np.uint64), 0, 2)
    assert table.digest() == before


def test_what_a_table_out_of_memory_took_before_it_said_so_begins_as_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    table, roomy = small(monkeypatch), Table(TableSettings(dim=2, max_rows=10_000), 1)
    old, new = np.arange(1, 5001, dtype=np.uint64), np.arange(4990, 6000, dtype=np.uint64)
    table.apply_gradients(insert(table, old), np.ones((5000, 2), np.float32), 1)
    # Of these some come back, and some new ones get their slots.
    table.remove(old[-20:], 0, 2)
    with pytest.raises(TableFull):
        insert(table, new, version=3)
    taken = np.array(there(table, new), np.uint64)
    assert len(taken) == 20
    assert np.array_equal(table.gather(table.find(taken)), roomy.gather(insert(roomy, taken)))
    state = Table.restore(TableSettings(dim=2, max_rows=10_000), table.snapshot())
    assert not state._rows.state[state.find(taken)].any()
    assert not np.isin(table.changed_since(0).tombstones, taken).any()


@pytest.mark.parametrize("full", [FullPolicy.REFUSE, FullPolicy.GROW])
def test_who_was_turned_away_is_counted_over_restarts(full: FullPolicy) -> None:
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=2)
    table = Table(TableSettings(dim=2, max_rows=10, full=full, admission=rule))
    keys = np.arange(1, 13, dtype=np.uint64)
    for expected in ((12, 0), (12, 2 if full is FullPolicy.REFUSE else 0)):
        insert(table, keys)
        assert table.turned_away == expected
        assert (table.stats().unadmitted, table.stats().refused) == expected
        table = Table.restore(table.settings, table.snapshot())
        assert table.turned_away == expected


# ---- removals


def churned(rows: int, keys: int) -> Table:
    """A table of so many rows after so many keys, each of which was seen once."""
    table = bounded(FullPolicy.EVICT, EvictionPolicy.LRU, rows)
    for now_s, part in enumerate(np.array_split(np.arange(1, keys + 1, dtype=np.uint64), keys * 2 // rows)):
        insert(table, part, now_s=now_s)
    return table


def test_a_small_table_remembers_as_many_removals_as_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("online_learning.table.tombstones.SMALLEST", 200)
    table = churned(100, 5_000)
    assert len(table) + table.stats().tombstones == 5_000
    smaller = bounded(FullPolicy.EVICT, EvictionPolicy.LRU, 10).settings
    restored = Table.restore(smaller, table.snapshot())
    assert (len(restored), restored.stats().tombstones) == (10, 4_990)


def test_no_removal_is_lost_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = churned(100, 5_000).snapshot()
    monkeypatch.setattr("online_learning.table.tombstones.SMALLEST", 200)
    monkeypatch.setattr("online_learning.table.tombstones.usable_bytes", lambda: 0)
    with pytest.raises(TableFull, match=r"of the snapshot's \d+ tombstone_keys only 200 fit"):
        Table.restore(bounded(FullPolicy.EVICT, EvictionPolicy.LRU, 100).settings, snapshot)
    table = churned(100, 250)
    newest = np.arange(251, 351, dtype=np.uint64)
    with pytest.raises(TombstonesFull, match="do not fit"):
        insert(table, newest, now_s=10)
    # What has a row has a whole one, and nothing else went: a key is either there or known to be removed.
    keys = np.arange(1, 351, dtype=np.uint64)
    kept, gone = set(there(table, keys)), set(table.changed_since(0).tombstones.tolist())
    assert kept | gone >= set(range(1, 251))
    assert not kept & gone
    alive = np.array(sorted(kept), np.uint64)
    roomy = Table(TableSettings(dim=2))
    assert np.array_equal(table.gather(table.find(alive)), roomy.gather(insert(roomy, alive)))
    assert not (table._directory.flags & PROTECTED).any()


def test_where_address_space_is_refused_a_small_table_has_its_room_for_removals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refusing(length: int, dtype: object) -> np.ndarray:
        if length > 1 << 26:
            raise OSError
        return reserve(length, dtype)

    monkeypatch.setattr("online_learning.table.directory.reserve", refusing)
    assert churned(100, 1_000).stats().tombstones == 900


# ---- new rows


def test_a_new_row_is_a_function_of_seed_and_key_alone() -> None:
    keys = np.arange(1, 2001, dtype=np.uint64)
    for kind in InitializerKind:
        rule = InitializerSettings(kind=kind, scale=0.1, zero_columns=1)
        one, two, other = (Table(TableSettings(dim=9, initializer=rule), seed) for seed in (4, 4, 5))
        first = one.gather(insert(one, keys))
        shuffled = keys[::-1].copy()
        assert np.array_equal(two.gather(insert(two, shuffled))[::-1], first)
        assert not first[:, 0].any()
        if kind is InitializerKind.ZEROS:
            assert not first.any()
            continue
        assert not np.array_equal(other.gather(insert(other, keys)), first)
        drawn = first[:, 1:]
        spread = 0.1 if kind is InitializerKind.NORMAL else 0.1 / np.sqrt(3)
        assert abs(drawn.std() / spread - 1) < 0.03
        assert abs(drawn.mean()) < 5 * spread / np.sqrt(drawn.size)
        # Columns of a row and rows of neighbouring keys have nothing to do with each other.
        noise = 5 / np.sqrt(len(drawn))
        assert np.abs(np.corrcoef(drawn, rowvar=False) - np.eye(drawn.shape[1])).max() < noise
        assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < noise


def test_a_new_row_starts_from_its_content_vector_where_one_is_given() -> None:
    table, plain = Table(TableSettings(dim=2), 1), Table(TableSettings(dim=2), 1)
    seeded = plain.gather(insert(plain, keys_of(1, 2, 3)))
    content = np.array([[1, 2], [np.nan, np.nan], [5, 6]], np.float32)
    spaces = np.zeros(3, np.uint16)
    rows = table.gather(table.find_or_insert(keys_of(1, 2, 3), spaces, 0, 1, initial=content))
    assert np.array_equal(rows, [[1, 2], seeded[1], [5, 6]])
    again = table.find_or_insert(keys_of(1, 2, 3), spaces, 0, 2, initial=content * 9)
    assert np.array_equal(table.gather(again), rows)


def test_a_row_that_comes_back_starts_anew() -> None:
    table = Table(TableSettings(dim=2))
    slots = insert(table, keys_of(1))
    first = table.gather(slots)
    table.apply_gradients(slots, np.ones((1, 2), np.float32), 2)
    table.remove(keys_of(1), 0, 3)
    again = insert(table, keys_of(1), version=4)
    assert np.array_equal(table.gather(again), first)
    assert table.changed_since(0).tombstones.tolist() == []


def test_a_large_table_is_evicted_in_slices_until_nothing_expired_is_left() -> None:
    rule = TableSettings(dim=1, eviction=EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=10))
    table = Table(rule)
    keys = np.arange(1, 30_001, dtype=np.uint64)
    table.find_or_insert(keys, np.zeros(len(keys), np.uint16), 0, 1)
    kept = keys[::3]
    table.find_or_insert(kept, np.zeros(len(kept), np.uint16), 9_000, 2)
    gone = [table.evict(15_000, 3, slots=4_096) for _ in range(8)]
    assert max(gone) <= 4_096
    assert sum(gone) == 20_000
    assert (table.find(kept) >= 0).all()


@pytest.mark.parametrize("policy", [EvictionPolicy.LRU, EvictionPolicy.LFU])
def test_what_a_table_beyond_a_sample_lets_go_is_among_its_least(policy: EvictionPolicy) -> None:
    rows = 200_000
    rule = TableSettings(dim=1, max_rows=rows, full=FullPolicy.EVICT, eviction=EvictionSettings(policy=policy))
    table = Table(rule)
    keys = np.random.default_rng(1).permutation(np.arange(1, rows + 1, dtype=np.uint64))
    for part in np.array_split(keys, 20):
        table.find_or_insert(part, np.zeros(len(part), np.uint16), 0, 1)
    # The upper half is seen again.
    again = keys[keys > rows // 2]
    table.find_or_insert(again, np.zeros(len(again), np.uint16), 1_000_000, 2)
    fresh = np.arange(rows + 1, rows + 20_001, dtype=np.uint64)
    assert (table.find_or_insert(fresh, np.zeros(len(fresh), np.uint16), 2_000_000, 3) >= 0).all()
    assert len(table) <= rows
    assert (table.find(again) >= 0).all()
