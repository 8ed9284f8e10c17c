"""A collision-free embedding table: every key has its own row, every change a version, every removal a tombstone.

One writer at a time (the trainer); reading beside the writer goes through exports and snapshots. Everything is a
function of the settings, the seed and the calls made: time and versions are handed in.
"""

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from online_learning.table.admission import DRAWS, SIGHTINGS, Admission
from online_learning.table.arguments import (
    Floats,
    Keys,
    Slots,
    Spaces,
    as_floats,
    as_keys,
    as_new_keys,
    as_offsets,
    as_slots,
    as_spaces,
)
from online_learning.table.buffers import Buffers
from online_learning.table.digest import Encoding, digest_rows
from online_learning.table.directory import MOST_BYTES, Directory
from online_learning.table.eviction import AT_ONCE, LEAST_AT_ONCE, SCAN, Eviction
from online_learning.table.export import Export, TableFull
from online_learning.table.headers import (
    HEADER_WORDS,
    IN_FLIGHT,
    LIVE,
    PROTECTED,
    TOUCHED,
    last_seen_s,
    spaces_of,
)
from online_learning.table.keys import RESERVED_KEY
from online_learning.table.memory import Ahead, populate, usable_bytes
from online_learning.table.optimizers import Optimizer
from online_learning.table.persistence import header_arrays, load_headers, row_arrays, split_to_fit
from online_learning.table.rows import Rows, spread_range
from online_learning.table.settings import (
    MAX_ROWS,
    EvictionPolicy,
    FullPolicy,
    TableSettings,
)
from online_learning.table.snapshot import SnapshotMeta, TableSnapshot
from online_learning.table.stats import TableStats, stats_of
from online_learning.table.tombstones import Tombstones
from online_learning.table.upsert import LIMIT, REFUSED_SLOT, UNADMITTED
from online_learning.table.workers import Workers

__all__ = ["Export", "Table", "TableFull"]

# Samples that may be all of protected rows before a full table refuses.
LEAST_TRIES = 64


class Table:
    """Rows of `settings.dim` f32 columns by 64-bit key.

    Slots that `find` and `find_or_insert` return stay valid until the row is evicted or removed; a full table
    evicts inside `find_or_insert`, but never a row of the same call.
    Array arguments are converted where they are not C-contiguous or of the stated type, and refused with ValueError
    where that would change a number. A key stands for itself in every key space: `hash_key` has the field in it, and
    the space that a row is first seen in only says which rows it lives and is counted with.
    """

    def __init__(self, settings: TableSettings, seed: int = 0) -> None:
        self.settings = settings
        self.seed = seed & 0xFFFF_FFFF_FFFF_FFFF
        self.optimizer = Optimizer(settings.optimizer, settings.dim)
        reserved = settings.max_rows
        if settings.full is FullPolicy.GROW:
            row_bytes = 4 * (settings.dim + self.optimizer.width) + MOST_BYTES
            reserved = max(reserved, min(MAX_ROWS, usable_bytes() // row_bytes))
        self._directory = Directory(reserved, reserved, self.seed)
        self._tombstones = Tombstones(reserved, self.seed)
        self._rows = Rows(reserved, settings.dim, self.optimizer.width)
        self._workers = Workers(settings.threads)
        self._buffers = Buffers()
        self._ahead = Ahead()
        self._directory.keep_ahead(self._ahead)
        self._ahead.add(self._rows.flat_values, settings.dim)
        self._ahead.add(self._rows.flat_state, self.optimizer.width)
        self._admission = Admission(settings.admission)
        self._eviction = Eviction(settings.eviction)
        self._generation = 0
        self._refused = 0
        self._evicted = 0

    # ---- reading

    def __len__(self) -> int:
        return len(self._directory)

    @property
    def dim(self) -> int:
        """Columns of a row."""
        return self.settings.dim

    def find(self, keys: Keys) -> Slots:
        """Slots i64 [n] of keys u64 [n]; -1: absent. Changes nothing."""
        return self._directory.find(as_keys(keys), self._workers)

    def lookup(self, keys: Keys, out: Floats | None = None) -> tuple[Slots, Floats]:
        """(slots i64 [n], rows f32 [n, dim]) of keys u64 [n], found and gathered in one pass; -1 and zeros: absent."""
        keys = as_keys(keys)
        slots = np.empty(len(keys), np.int64)
        if out is None:
            out = self._buffers.take(len(keys), self.dim)
        self._rows.lookup(self._directory, keys, slots, out, self._workers)
        return slots, out

    def gather(self, slots: Slots, out: Floats | None = None) -> Floats:
        """Rows f32 [n, dim] of slots i64 [n]. A slot of -1 gives zeros: `slots >= 0` tells which are rows."""
        slots = as_slots(slots, self._directory.slots_used)
        if out is None:
            out = self._buffers.take(len(slots), self.dim)
        self._rows.gather(slots, out, self._workers)
        return out

    def gather_pooled(self, slots: Slots, offsets: NDArray[np.int64], mode: Literal["sum", "mean"] = "sum") -> Floats:
        """f32 [b, dim]: bag i pools slots[offsets[i]:offsets[i + 1]]; offsets i64 [b + 1].

        Slots of -1 are left out, of the mean's count too; an empty bag gives zeros.
        """
        slots, offsets = as_slots(slots, self._directory.slots_used), as_offsets(offsets, len(slots))
        out = self._buffers.take(len(offsets) - 1, self.dim)
        self._rows.gather_pooled(slots, offsets, mode == "mean", out, self._workers)
        return out

    def spread_gradients(
        self, slots: Slots, offsets: NDArray[np.int64], grads: Floats, mode: Literal["sum", "mean"] = "sum"
    ) -> Floats:
        """Gradients f32 [n, dim] of the slots from those f32 [b, dim] of their bags: gather_pooled backwards."""
        slots, offsets = as_slots(slots, self._directory.slots_used), as_offsets(offsets, len(slots))
        grads = as_floats(grads, (len(offsets) - 1, self.dim), "grads")
        out = np.zeros((len(slots), self.dim), np.float32)
        self._workers.run(
            spread_range,
            len(offsets) - 1,
            grads.reshape(-1),
            self.dim,
            slots,
            offsets,
            mode == "mean",
            out.reshape(-1),
            piece=1024,
        )
        return out

    # ---- writing

    def find_or_insert(
        self, keys: Keys, spaces: Spaces, now_ms: int, version: int, initial: Floats | None = None
    ) -> Slots:
        """Slots i64 [n] of keys u64 [n]; unseen keys get a row where admission and room allow, else -1.

        spaces u16 [n]: key space of each key. initial f32 [n, dim]: where a new row starts (a content vector); a
        row of it that begins with NaN, and every row where it is None, starts from the seeded initialiser. Marks
        new rows touched with `version`; notes every sighting. Raises TableFull under the full policy grow, and
        TombstonesFull under evict; every row that is there then is whole.
        """
        keys = as_new_keys(keys)
        spaces = as_spaces(spaces, len(keys))
        if initial is not None:
            initial = as_floats(initial, (len(keys), self.dim), "initial")
        now_s = now_ms // 1000
        slots, created = self._directory.upsert(keys, spaces, now_s, version, self._admission.rule(), self._workers)
        self._begin_rows(created, slots, keys, initial)
        if len(slots) and slots.min() == REFUSED_SLOT:
            refused = np.flatnonzero(slots == REFUSED_SLOT)
            more = self._insert_refused(refused, keys, spaces, slots, now_s, version)
            self._begin_rows(more, slots, keys, initial)
        return slots

    def prepare(self, rows: int) -> None:
        """Have memory and index for `rows` rows ready now; otherwise they are taken as the rows come."""
        rows = min(rows, int(self._directory.counters[LIMIT]))
        self._directory.prepare(rows, self._workers)
        used = self._directory.slots_used
        for array, width in ((self._rows.flat_values, self.dim), (self._rows.flat_state, self.optimizer.width)):
            if rows > used and width:
                populate(array, used * width, rows * width, self._workers)
        self._ahead.prepared(rows)

    def apply_gradients(self, slots: Slots, grads: Floats, version: int, learning_rate: float | None = None) -> Slots:
        """One optimizer step on the rows of slots i64 [n] (-1 is passed over) with grads f32 [n, dim].

        Gradients of equal slots are summed, in batch order, before the one step of their row. Marks the rows
        touched with `version` and returns their distinct slots. `learning_rate` overrides the settings' for this step.
        This is no sighting: those are noted by find_or_insert.
        """
        slots = as_slots(slots, self._directory.slots_used)
        grads = as_floats(grads, (len(slots), self.dim), "grads")
        return self._step(slots, grads, version, learning_rate, None)

    def apply_pooled_gradients(
        self,
        slots: Slots,
        offsets: NDArray[np.int64],
        grads: Floats,
        version: int,
        mode: Literal["sum", "mean"] = "sum",
        learning_rate: float | None = None,
    ) -> Slots:
        """apply_gradients of spread_gradients, in one: grads f32 [b, dim] are those of gather_pooled's result."""
        slots, offsets = as_slots(slots, self._directory.slots_used), as_offsets(offsets, len(slots))
        grads = as_floats(grads, (len(offsets) - 1, self.dim), "grads")
        return self._step(slots, grads, version, learning_rate, (offsets, mode == "mean"))

    def _step(
        self,
        slots: Slots,
        grads: Floats,
        version: int,
        learning_rate: float | None,
        bags: tuple[NDArray[np.int64], bool] | None,
    ) -> Slots:
        touched = self.optimizer.step(
            self._rows.flat_values,
            self.dim,
            self._rows.flat_state,
            self._directory.flags,
            self._directory.slots_used,
            slots,
            grads,
            self._workers,
            learning_rate,
            bags,
        )
        self._directory.touch(touched, version)
        return touched

    def remove(self, keys: Keys, now_ms: int, version: int) -> int:
        """Remove the rows of keys u64 [n] and leave tombstones; how many there were. Raises TombstonesFull."""
        keys = as_keys(keys)
        self._tombstones.expect(len(keys))
        return self._tombstones.bury(keys[self._directory.drop(keys) >= 0], now_ms // 1000, version)

    def evict(self, now_ms: int, version: int, slots: int = SCAN) -> int:
        """Remove some of what the eviction policy lets go: expired rows, then rows above `max_rows`; how many.

        A call looks for expired rows among the next `slots` slots and removes at most 16,384 rows, so that learning
        does not wait long; calls in a row come round the whole table. Raises TombstonesFull.
        """
        policy, now_s = self.settings.eviction.policy, now_ms // 1000
        if policy is EvictionPolicy.NONE:
            return 0
        gone = self._evict_slots(self._eviction.expired(self._directory, now_s, slots), now_s, version)
        over = len(self) - self.settings.max_rows if self.settings.max_rows else 0
        if over > 0 and policy is not EvictionPolicy.TTL:
            gone += self._evict_least(min(over, AT_ONCE), now_s, version)
        return gone

    def forget_tombstones(self, before_version: int) -> int:
        """Forget tombstones of removals before a version, once snapshotted and acknowledged; how many.

        Call it when every kept checkpoint and every replica is past that version.
        """
        return self._tombstones.forget(before_version)

    # ---- publishing

    def take_touched(self, limit: int = 1 << 62) -> Keys:
        """Up to `limit` keys u64 [n] whose row changed or went since they were taken last; now in flight.

        Every key taken must be confirmed or retried. Removals come first.
        """
        buried = self._tombstones.directory
        graves = buried.take_touched(limit)
        slots = self._directory.take_touched(limit - len(graves))
        return np.concatenate([buried.header(graves)[0], self._directory.header(slots)[0]])

    def confirm(self, keys: Keys, version: int) -> int:
        """The broker has acknowledged these keys as they were at `version`; keys changed since stay touched."""
        return self._settle(as_keys(keys), version, again=False)

    def retry(self, keys: Keys) -> int:
        """These keys were taken but not acknowledged: touch them again; how many were in flight."""
        return self._settle(as_keys(keys), 0xFFFF_FFFF_FFFF_FFFF, again=True)

    def republish(self, keys: Keys, version: int) -> None:
        """Stamp keys u64 [n] with a version and touch them; those without a row get a tombstone.

        For the keys of frames of a dead epoch: replicas must hear of each, or keep rows of a history that is void.
        The reserved key, which only a broken frame names, is passed over. Raises TombstonesFull.
        """
        keys = np.unique(as_keys(keys))
        keys = keys[keys != RESERVED_KEY]
        slots = self.find(keys)
        self._directory.touch(slots[slots >= 0], version)
        self._tombstones.bury(keys[slots < 0], 0, version)

    def export(self, keys: Keys) -> Export:
        """The rows of keys u64 [n] as they are now; keys without a row come as tombstones."""
        keys = as_keys(keys)
        slots = self.find(keys)
        gone = keys[slots < 0]
        return self._export(slots[slots >= 0], gone, self._tombstones.versions_of(gone, self._workers))

    def changed_since(self, version: int) -> Export:
        """All rows and tombstones with a version above `version` (0: everything that has one)."""
        newer = self._newer(self._directory, version)
        buried = self._tombstones.directory
        keys, versions, _ = buried.header(self._newer(buried, version))
        return self._export(newer, keys, versions)

    @property
    def touched(self) -> int:
        """Keys whose newest state is not acknowledged."""
        bits = TOUCHED | IN_FLIGHT
        return len(self._directory.flagged(bits)) + len(self._tombstones.directory.flagged(bits))

    @property
    def gone(self) -> tuple[int, int]:
        """(rows evicted in this life of the table, removals that are remembered)."""
        return self._evicted, len(self._tombstones)

    @property
    def turned_away(self) -> tuple[int, int]:
        """(sightings of unseen keys that were not admitted, those that a full table refused); a snapshot keeps both."""
        return int(self._directory.counters[UNADMITTED]), self._refused

    def digest(self, encoding: Encoding = Encoding.FP32) -> int:
        """Order-independent digest of all rows' serving columns under an encoding; see digest.py."""
        total, slots = 0, self._directory.live()
        for start in range(0, len(slots), 1 << 16):
            part = slots[start : start + (1 << 16)]
            total += digest_rows(self._directory.header(part)[0], encoding.encode_rows(self.gather(part)))
        return total & 0xFFFF_FFFF_FFFF_FFFF

    # ---- keeping

    def snapshot(self, *, whole: bool = True) -> TableSnapshot:
        """A copy as arrays: of everything, or (`whole` False) of what changed since the last snapshot.

        The caller owns the copy; if it is lost before it is durable, the next snapshot must be whole.
        """
        directory, buried = self._directory, self._tombstones.directory
        changed, changed_graves = directory.take_unsaved(), buried.take_unsaved()
        slots = directory.live() if whole else changed
        graves = buried.live() if whole else changed_graves
        parent, self._generation = self._generation, self._generation + 1
        arrays = {
            **header_arrays(directory, slots),
            **row_arrays(self._rows, slots, self._workers),
            **header_arrays(buried, graves, "tombstone_"),
            "sketch": self._admission.kept(),
        }
        meta = SnapshotMeta(
            name=self.settings.name,
            dim=self.dim,
            optimizer=self.settings.optimizer.kind.value,
            seed=self.seed,
            generation=self._generation,
            parent=None if whole else parent,
            steps=self.optimizer.steps,
            sightings=int(self._admission.state[SIGHTINGS]),
            draws=int(self._admission.state[DRAWS]),
            forgotten_before=self._tombstones.forgotten_before,
            unadmitted=self.turned_away[0],
            refused=self._refused,
        )
        return TableSnapshot(meta=meta, arrays=arrays)

    @classmethod
    def restore(cls, settings: TableSettings, snapshot: TableSnapshot) -> Self:
        """The table of a whole snapshot, of any capacity: too many rows are evicted by the settings' policy.

        Raises ValueError where dim or optimizer differ, and TableFull where the rows do not fit and the full policy is
        not evict, or the tombstones do not.
        """
        meta, arrays = snapshot.meta, snapshot.arrays
        snapshot.check(settings)
        table = cls(settings, meta.seed)
        table._generation = meta.generation
        table._tombstones.forgotten_before = meta.forgotten_before
        table.optimizer.steps = meta.steps
        table._directory.counters[UNADMITTED], table._refused = meta.unadmitted, meta.refused
        table._admission.restore(meta.sightings, meta.draws, arrays["sketch"])
        table._load_rows(arrays)
        load_headers(table._tombstones.directory, arrays, "tombstone_")
        return table

    def stats(self) -> TableStats:
        """Rows, memory and health as they are now; reads the whole index once."""
        return stats_of(
            self.settings,
            self._directory,
            self._tombstones.directory,
            state_width=self.optimizer.width,
            admission_bytes=self._admission.sketch.nbytes,
            touched=self.touched,
            refused=self._refused,
            evicted=self._evicted,
        )

    # ---- inside

    def _begin_rows(self, created: Slots, slots: Slots, keys: Keys, initial: Floats | None) -> None:
        """Give the new rows at the places `created` of a batch their first values; their keys live again."""
        if not len(created):
            return
        self._ahead.fill(self._directory.slots_used, len(created), self._workers)
        self._rows.initialise(
            self.settings.initializer,
            self.optimizer.initial_state,
            self.seed,
            slots,
            keys,
            created,
            initial,
            self._workers,
        )
        if len(self._tombstones):
            self._tombstones.revive(keys[created])
        self._ahead.reached(self._directory.slots_used, len(created))
        self._directory.keep_index_ahead(self._ahead)

    def _insert_refused(
        self, refused: Slots, keys: Keys, spaces: Spaces, slots: Slots, now_s: int, version: int
    ) -> Slots:
        """Give refused keys what the full policy says; the positions in the batch that made a row.

        Raises TableFull: whoever calls has begun the rows that were made before.
        """
        full = self.settings.full
        if full is FullPolicy.EVICT:
            there = slots[slots >= 0]
            share = min(LEAST_AT_ONCE, round(self.settings.eviction.fraction * self.settings.max_rows))
            wanted = max(len(np.unique(keys[refused])), share)
            self._directory.flags[there] |= PROTECTED
            try:
                self._evict_least(wanted, now_s, version)
            finally:
                self._directory.flags[there] &= 0xFF ^ PROTECTED
            passed = self._admission.rule(passed=True)
            again, made = self._directory.upsert(keys[refused], spaces[refused], now_s, version, passed)
            slots[refused] = again
            made = refused[made]
        else:
            made = np.empty(0, np.int64)
        left = np.flatnonzero(slots == REFUSED_SLOT)
        self._refused += len(left)
        slots[left] = -1
        if full is FullPolicy.GROW and len(left):
            raise TableFull(f"table {self.settings.name!r} holds {len(self)} rows, all that fit in memory")
        return made

    def _evict_least(self, wanted: int, now_s: int, version: int) -> int:
        gone, tries = 0, 0
        while gone < wanted and len(self) and tries < LEAST_TRIES:
            slots = self._eviction.least(self._directory, wanted - gone)
            gone += self._evict_slots(slots, now_s, version)
            tries = 0 if len(slots) else tries + 1
        return gone

    def _evict_slots(self, slots: Slots, now_s: int, version: int) -> int:
        keys = self._directory.header(slots)[0]
        self._tombstones.expect(len(keys))
        self._directory.drop(keys)
        self._evicted += len(keys)
        return self._tombstones.bury(keys, now_s, version)

    def _settle(self, keys: Keys, version: int, *, again: bool) -> int:
        settled = self._directory.settle(self.find(keys), version, again=again)
        buried = self._tombstones.directory
        if len(buried):
            settled += buried.settle(buried.find(keys, self._workers), version, again=again)
        return settled

    def _newer(self, directory: Directory, version: int) -> Slots:
        used = directory.slots_used
        versions = directory.headers[1 : used * HEADER_WORDS : HEADER_WORDS]
        return np.flatnonzero((versions > np.uint64(version)) & (directory.flags[:used] & np.uint8(LIVE) != 0))

    def _export(self, slots: Slots, gone: Keys, gone_versions: Keys) -> Export:
        keys, versions, marks = self._directory.header(slots)
        return Export(keys, spaces_of(marks), versions, self.gather(slots), gone, gone_versions)

    def _load_rows(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take a snapshot's rows; those that do not fit go by the eviction policy, with tombstones."""
        room = int(self._directory.counters[LIMIT])
        count = len(arrays["keys"])
        if count > room:
            if self.settings.full is not FullPolicy.EVICT:
                raise TableFull(
                    f"`max_rows` == {room}, must be at least the snapshot's {count} rows (or the full policy evict)"
                )
            newest, now_s = int(arrays["versions"].max()), int(last_seen_s(arrays["marks"]).max())
            arrays, gone = split_to_fit(arrays, room, self.settings.eviction.policy)
            self._tombstones.bury(gone, now_s, newest)
        slots = load_headers(self._directory, arrays)
        self._rows.values[slots] = arrays["values"]
        self._rows.state[slots] = arrays["state"]
