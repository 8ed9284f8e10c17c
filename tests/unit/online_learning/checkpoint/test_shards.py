"""However many shards wrote a checkpoint and however many read it, together they hold the table."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.checkpoint.shards import shard_of, table_shard
from online_learning.checkpoint.store import CheckpointStore
from online_learning.table.digest import Encoding
from online_learning.table.settings import FullPolicy, OptimizerKind, OptimizerSettings, TableSettings
from online_learning.table.table import Table

ADAM = OptimizerSettings(kind=OptimizerKind.LAZY_ADAM)
SETTINGS = TableSettings(dim=3, optimizer=ADAM)
MODULUS = 1 << 64


def learned(steps: list[tuple[list[int], list[int]]], shard: int = 0, shards: int = 1) -> Table:
    """A shard after steps that learn the first keys of each and then remove the second."""
    table = Table(SETTINGS, 5)
    for number, (named, gone) in enumerate(steps, start=1):
        keys = np.array(named, np.uint64)
        rng = np.random.default_rng(number)
        grads = rng.normal(size=(len(keys), 3)).astype(np.float32)
        mine = shard_of(keys, shards) == shard
        slots = table.find_or_insert(keys[mine], np.zeros(mine.sum(), np.uint16), number * 1000, number)
        table.apply_gradients(slots, grads[mine], number)
        dead = np.array(gone, np.uint64)
        table.remove(dead[shard_of(dead, shards) == shard], number * 1000, number)
    return table


def of_shards(tables: list[Table]) -> Checkpoint:
    named = {f"sparse/{k}": table.snapshot() for k, table in enumerate(tables)}
    return Checkpoint(tables=named if len(tables) > 1 else {"sparse": named["sparse/0"]}, dense={}, offsets={})


step = st.tuples(st.lists(st.integers(1, 60), max_size=30), st.lists(st.integers(1, 60), max_size=8, unique=True))


@given(steps=st.lists(step, max_size=5), wrote=st.integers(1, 5), reads=st.integers(1, 5))
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_any_number_of_shards_restored_into_any_other_is_the_same_table(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[list[int], list[int]]],
    wrote: int,
    reads: int,
) -> None:
    whole = learned(steps)
    store = CheckpointStore(tmp_path_factory.mktemp("shards"))
    store.save(of_shards([learned(steps, k, wrote) for k in range(wrote)]))
    loaded = store.load_newest()
    assert loaded is not None
    parts = [Table.restore(SETTINGS, table_shard(loaded, "sparse", shard=k, shards=reads)) for k in range(reads)]
    assert sum(map(len, parts)) == len(whole)
    for encoding in Encoding:
        assert sum(part.digest(encoding) for part in parts) % MODULUS == whole.digest(encoding)
    gone = [set(part.changed_since(0).tombstones.tolist()) for part in parts]
    assert sum(map(len, gone)) == len(set().union(*gone))
    assert set().union(*gone) == set(whole.changed_since(0).tombstones.tolist())

    # They go on learning as the whole one does, moments and all.
    keys = np.arange(1, 61, dtype=np.uint64)
    grads = np.random.default_rng(9).normal(size=(60, 3)).astype(np.float32)
    whole.optimizer.steps = max(part.optimizer.steps for part in parts)
    for k, part in enumerate([*parts, whole]):
        mine = shard_of(keys, reads) == k if part is not whole else np.ones(60, bool)
        part.apply_gradients(part.find(keys[mine]), grads[mine], 99)
    assert sum(part.digest() for part in parts) % MODULUS == whole.digest()


def test_what_shards_turned_away_adds_up() -> None:
    settings = TableSettings(dim=2, max_rows=8, full=FullPolicy.REFUSE)
    tables = [Table(settings, 5) for _ in range(2)]
    for shard, table in enumerate(tables):
        keys = np.arange(1, 30 + shard, dtype=np.uint64) + np.uint64(100 * shard)
        table.find_or_insert(keys, np.zeros(len(keys), np.uint16), 1, 1)
    refused = [table.turned_away[1] for table in tables]
    assert refused == [21, 22]
    whole = table_shard(of_shards(tables), "sparse")
    assert Table.restore(TableSettings(dim=2), whole).turned_away == (0, sum(refused))


def test_the_keys_of_a_shard_depend_on_nothing_but_the_key_and_the_number_of_shards() -> None:
    keys = np.arange(1, 100_001, dtype=np.uint64)
    shards = shard_of(keys, 7)
    counts = np.bincount(shards, minlength=7)
    # Five standard deviations of a binomial of 100,000 draws at 1 in 7.
    assert np.abs(counts - len(keys) / 7).max() < 5 * np.sqrt(len(keys) * 6 / 49)
    assert np.array_equal(shard_of(keys[::-1], 7)[::-1], shards)
    assert shard_of(keys, 1).max() == 0


def test_a_resharded_table_is_saved_whole_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("two"))
    store.save(of_shards([learned([([1, 2, 3, 4], [])], k, 2) for k in range(2)]))
    loaded = store.load_newest()
    assert loaded is not None
    table = Table.restore(SETTINGS, table_shard(loaded, "sparse"))
    with pytest.raises(CheckpointError, match="does not build on"):
        store.save(Checkpoint(tables={"sparse": table.snapshot(whole=False)}, dense={}, offsets={}))
    store.save(Checkpoint(tables={"sparse": table.snapshot()}, dense={}, offsets={}))
    loaded = store.load_newest()
    assert loaded is not None
    assert Table.restore(SETTINGS, table_shard(loaded, "sparse")).digest() == table.digest()


def test_a_shard_is_restored_at_another_capacity_too() -> None:
    whole = learned([(list(range(1, 60)), [])])
    limited = TableSettings(dim=3, max_rows=59, full=FullPolicy.REFUSE, optimizer=ADAM)
    parts = [Table.restore(limited, table_shard(of_shards([whole]), "sparse", shard=k, shards=3)) for k in range(3)]
    assert sum(part.digest() for part in parts) % MODULUS == whole.digest()


def test_what_does_not_fit_together_is_refused_in_words() -> None:
    one, other = learned([([1], [])]), Table(SETTINGS, 6)
    checkpoint = of_shards([one, other])
    with pytest.raises(CheckpointError, match="do not fit together"):
        table_shard(checkpoint, "sparse")
    with pytest.raises(CheckpointError, match="share keys"):
        table_shard(of_shards([one, learned([([1], [])])]), "sparse")
    with pytest.raises(CheckpointError, match="no table 'dense'"):
        table_shard(checkpoint, "dense")
    with pytest.raises(ValueError, match="must be in"):
        table_shard(checkpoint, "sparse", shard=2, shards=2)
