"""What a table really costs and how full it is."""

import msgspec
import numpy as np

from online_learning.table.directory import SLOT_BYTES, Directory
from online_learning.table.headers import spaces_of
from online_learning.table.index import LINE_BYTES, MAX_LOAD, PLACES
from online_learning.table.keys import collision_bound
from online_learning.table.settings import TableSettings
from online_learning.table.upsert import FREE, UNADMITTED


class TableStats(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a table; bytes are of memory in use, by part.

    `overhead_bytes_per_row`: header, flags and index per row as they are now; `overhead_at_full_load`: the same with
    the index at load 0.75. `collision_bound`: chance that any two keys ever given (rows) share their 64 bits.
    `probe_mean`, `probe_max`: lines looked at behind the first for a key that is there. `rows_by_space`: rows of each
    key space that has any.
    """

    name: str
    rows: int
    slots: int
    tombstones: int
    touched: int
    max_rows: int
    refused: int
    unadmitted: int
    evicted: int
    load: float
    probe_mean: float
    probe_max: int
    rows_by_space: dict[int, int]
    collision_bound: float
    bytes_by_part: dict[str, int]
    overhead_bytes_per_row: float
    overhead_at_full_load: float

    @property
    def total_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(self.bytes_by_part.values())

    @property
    def bytes_per_row(self) -> float:
        """All bytes over all rows."""
        return self.total_bytes / max(1, self.rows)


def stats_of(
    settings: TableSettings,
    directory: Directory,
    graves: Directory,
    *,
    state_width: int,
    admission_bytes: int,
    touched: int,
    refused: int,
    evicted: int,
) -> TableStats:
    """The statistics of a table from its parts: rows in `directory`, tombstones in `graves`."""
    rows, slots, (probe_mean, probe_max) = len(directory), directory.slots_used, directory.probe_lengths()
    parts = {
        "embeddings": slots * settings.dim * 4,
        "optimizer": slots * state_width * 4,
        "headers": round(slots * SLOT_BYTES),
        "free list": 4 * int(directory.counters[FREE]),
        "index": directory.index_bytes,
        "tombstones": round(graves.slots_used * SLOT_BYTES) + graves.index_bytes,
        "admission": admission_bytes,
    }
    in_space = np.bincount(spaces_of(directory.header(directory.live())[2]), minlength=1)
    return TableStats(
        name=settings.name,
        rows=rows,
        slots=slots,
        tombstones=len(graves),
        touched=touched,
        max_rows=settings.max_rows,
        refused=refused,
        unadmitted=int(directory.counters[UNADMITTED]),
        evicted=evicted,
        load=directory.load,
        probe_mean=probe_mean,
        probe_max=probe_max,
        rows_by_space={int(space): int(in_space[space]) for space in np.flatnonzero(in_space)},
        collision_bound=collision_bound(rows),
        bytes_by_part=parts,
        overhead_bytes_per_row=(parts["headers"] + parts["index"]) / max(1, rows),
        overhead_at_full_load=SLOT_BYTES + LINE_BYTES / PLACES / MAX_LOAD,
    )
