"""A table is a dict of rows: every sequence of calls leaves both the same."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from online_learning.table.settings import (
    EvictionPolicy,
    EvictionSettings,
    OptimizerKind,
    OptimizerSettings,
    TableSettings,
)
from online_learning.table.table import Table

DIM = 3
RATE = 0.5
TTL_S = 100
few_keys = st.lists(st.integers(1, 40), min_size=1, max_size=12)


class TableMachine(RuleBasedStateMachine):
    """The model: rows, versions, sightings by key; tombstones; touched and in-flight keys."""

    @initialize(seed=st.integers(0, 2**64 - 1))
    def start(self, seed: int) -> None:
        self.settings = TableSettings(
            dim=DIM,
            optimizer=OptimizerSettings(kind=OptimizerKind.SGD, learning_rate=RATE),
            eviction=EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=TTL_S),
        )
        self.seed = seed
        self.table = Table(self.settings, seed)
        self.rows: dict[int, np.ndarray] = {}
        self.versions: dict[int, int] = {}
        self.seen_s: dict[int, int] = {}
        self.spaces: dict[int, int] = {}
        self.tombstones: dict[int, int] = {}
        self.touched: set[int] = set()
        self.in_flight: dict[int, int] = {}
        self.version = 0
        self.now_ms = 1_000_000

    def _insert(self, keys: list[int]) -> np.ndarray:
        self.version += 1
        array = np.array(keys, np.uint64)
        spaces = (array % 7).astype(np.uint16)
        slots = self.table.find_or_insert(array, spaces, self.now_ms, self.version)
        assert (slots >= 0).all()
        rows = self.table.gather(slots)
        for key, row in zip(keys, rows, strict=True):
            if key not in self.rows:
                self.rows[key] = row.copy()
                self.versions[key] = self.version
                self.spaces[key] = key % 7
                self.touched.add(key)
                self.tombstones.pop(key, None)
                self.in_flight.pop(key, None)
            self.seen_s[key] = self.now_ms // 1000
            assert np.array_equal(row, self.rows[key])
        return slots

    @rule(keys=few_keys)
    def insert(self, keys: list[int]) -> None:
        self._insert(keys)

    @rule(start=st.integers(1, 50), count=st.integers(1500, 4000))
    def insert_many_so_that_the_index_grows(self, start: int, count: int) -> None:
        self._insert(list(range(start * 1000, start * 1000 + count)))

    @rule(keys=few_keys, data=st.data())
    def learn(self, keys: list[int], data: st.DataObject) -> None:
        slots = self._insert(keys)
        self.version += 1
        grads = np.array([[data.draw(st.integers(-4, 4)) for _ in range(DIM)] for _ in keys], dtype=np.float32)
        distinct = self.table.apply_gradients(slots, grads, self.version)
        assert len(distinct) == len(set(keys))
        for key in set(keys):
            # Halves of small integers: sums are exact in f32, in any order.
            total = grads[[i for i, other in enumerate(keys) if other == key]].sum(axis=0)
            self.rows[key] = (self.rows[key] - np.float32(RATE) * total).astype(np.float32)
            self.versions[key] = self.version
            self.touched.add(key)

    def _forget_row(self, key: int) -> None:
        del self.rows[key], self.versions[key], self.seen_s[key], self.spaces[key]
        self.in_flight.pop(key, None)
        self.tombstones[key] = self.version
        self.touched.add(key)

    @rule(keys=few_keys)
    def remove(self, keys: list[int]) -> None:
        self.version += 1
        there = {key for key in keys if key in self.rows}
        assert self.table.remove(np.array(keys, np.uint64), self.now_ms, self.version) == len(there)
        for key in there:
            self._forget_row(key)

    @rule(seconds=st.integers(1, 60))
    def let_time_pass_and_evict(self, seconds: int) -> None:
        self.now_ms += seconds * 1000
        self.version += 1
        old = [key for key, seen_s in self.seen_s.items() if seen_s + TTL_S <= self.now_ms // 1000]
        assert self.table.evict(self.now_ms, self.version) == len(old)
        for key in old:
            self._forget_row(key)

    @rule(limit=st.integers(1, 3000))
    def take_touched(self, limit: int) -> None:
        taken = self.table.take_touched(limit).tolist()
        assert len(taken) == len(set(taken)) == min(limit, len(self.touched))
        assert set(taken) <= self.touched
        self.touched -= set(taken)
        self.in_flight |= dict.fromkeys(taken, self.version)

    @rule(data=st.data())
    def confirm_some(self, data: st.DataObject) -> None:
        if self.in_flight:
            keys = data.draw(st.lists(st.sampled_from(sorted(self.in_flight)), unique=True))
            self.table.confirm(np.array(keys, np.uint64), self.version)
            for key in keys:
                del self.in_flight[key]

    @rule()
    def retry_all(self) -> None:
        keys = sorted(self.in_flight)
        self.table.retry(np.array(keys, np.uint64))
        self.touched |= set(keys)
        self.in_flight.clear()

    @rule()
    def save_and_restore(self) -> None:
        restored = Table.restore(self.settings, self.table.snapshot())
        assert restored.digest() == self.table.digest()
        self.table = restored
        # What was in flight when the trainer died has to be sent again.
        self.touched |= set(self.in_flight)
        self.in_flight.clear()

    @rule(behind=st.integers(0, 5))
    def forget_tombstones(self, behind: int) -> None:
        self.table.snapshot()
        before = max(0, self.version - behind)
        settled = [
            key
            for key, version in self.tombstones.items()
            if version < before and key not in self.touched and key not in self.in_flight
        ]
        assert self.table.forget_tombstones(before) == len(settled)
        for key in settled:
            del self.tombstones[key]

    @invariant()
    def the_same_rows_are_there(self) -> None:
        if not hasattr(self, "table"):
            return
        assert len(self.table) == len(self.rows)
        keys = np.array(sorted(self.rows), np.uint64)
        slots = self.table.find(keys)
        assert (slots >= 0).all()
        assert len(np.unique(slots)) == len(slots)
        if len(keys):
            assert np.array_equal(self.table.gather(slots), np.array([self.rows[int(key)] for key in keys]))
        gone = np.array([key for key in range(1, 41) if key not in self.rows], np.uint64)
        assert (self.table.find(gone) == -1).all()

    @invariant()
    def touched_keys_are_those_not_acknowledged(self) -> None:
        if hasattr(self, "table"):
            assert self.table.touched == len(self.touched | set(self.in_flight))

    @invariant()
    def everything_ever_changed_is_exported_with_its_version(self) -> None:
        if not hasattr(self, "table"):
            return
        export = self.table.changed_since(0)
        assert dict(zip(export.keys.tolist(), export.versions.tolist(), strict=True)) == self.versions
        assert dict(zip(export.keys.tolist(), export.spaces.tolist(), strict=True)) == self.spaces
        gone = dict(zip(export.tombstones.tolist(), export.tombstone_versions.tolist(), strict=True))
        assert gone == self.tombstones


TestTableAgainstADict = TableMachine.TestCase
TestTableAgainstADict.settings = settings(
    max_examples=40, stateful_step_count=25, suppress_health_check=list(HealthCheck)
)
