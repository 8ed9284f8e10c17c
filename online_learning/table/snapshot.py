"""A table as arrays: the whole of it, or what changed since the snapshot before."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.table.settings import TableSettings

ROW_ARRAYS = ("keys", "versions", "marks", "values", "state", "pending")
TOMBSTONE_ARRAYS = ("tombstone_keys", "tombstone_versions", "tombstone_marks", "tombstone_pending")


class SnapshotMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself. `parent`: the generation it builds on (an increment), or None (whole)."""

    name: str
    dim: int
    optimizer: str
    seed: int
    generation: int
    parent: int | None = None
    steps: int = 0
    sightings: int = 0
    draws: int = 0
    forgotten_before: int = 0
    unadmitted: int = 0
    refused: int = 0


class TableSnapshot(msgspec.Struct, kw_only=True):
    """`arrays` of n rows and t tombstones, all C-contiguous:

    keys u64 [n], versions u64 [n] (epoch << 40 | sequence), marks u64 [n] (last seen s << 32 | count << 16 | space),
    values f32 [n, dim], state f32 [n, width], pending u8 [n] (1: not yet acknowledged by the update log);
    tombstone_keys u64 [t], tombstone_versions u64 [t], tombstone_marks u64 [t], tombstone_pending u8 [t];
    sketch u16 [...] the admission filter (empty where there is none).
    """

    meta: SnapshotMeta
    arrays: dict[str, NDArray[np.generic]]

    @property
    def whole(self) -> bool:
        """Whether it stands without a parent."""
        return self.meta.parent is None

    @property
    def rows(self) -> int:
        """Rows in it."""
        return len(self.arrays["keys"])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def check(self, settings: TableSettings) -> None:
        """Raises ValueError where no table of these settings can be made of it."""
        if not self.whole:
            raise ValueError("an increment cannot be restored alone: merge it with its base")
        if self.meta.dim != settings.dim:
            raise ValueError(f"`dim` == {settings.dim}, must be {self.meta.dim} as in the snapshot")
        optimizer = settings.optimizer.kind.value
        if self.meta.optimizer != optimizer:
            raise ValueError(f"`optimizer` == {optimizer!r}, must be {self.meta.optimizer!r} as in the snapshot")


def merge(base: TableSnapshot, increment: TableSnapshot) -> TableSnapshot:
    """What `base` becomes with the next increment on it: whole if the base is, else one longer increment.

    Raises ValueError where the increment does not build on the base. Associative, so that a chain costs one pass over
    its base: merge the increments first, they are small.
    """
    if increment.whole:
        return increment
    if increment.meta.parent != base.meta.generation or increment.meta.name != base.meta.name:
        raise ValueError(
            f"increment {increment.meta.generation} of table {increment.meta.name!r} builds on "
            f"{increment.meta.parent}, not on {base.meta.generation} of {base.meta.name!r}"
        )
    old, new = base.arrays, increment.arrays
    gone = np.concatenate([new["keys"], new["tombstone_keys"]])
    kept = ~np.isin(old["keys"], gone)
    arrays: dict[str, NDArray[np.generic]] = {name: np.concatenate([old[name][kept], new[name]]) for name in ROW_ARRAYS}
    # A row that came back has no tombstone; one removed again has its newest.
    kept = ~np.isin(old["tombstone_keys"], gone)
    if base.whole:
        # In an increment even a forgotten removal is still needed: its base holds the row. And of one that is not
        # acknowledged the table forgets nothing.
        remembered = old["tombstone_versions"] >= np.uint64(increment.meta.forgotten_before)
        kept &= remembered | (old["tombstone_pending"] != 0)
    arrays |= {name: np.concatenate([old[name][kept], new[name]]) for name in TOMBSTONE_ARRAYS}
    arrays["sketch"] = new["sketch"] if len(new["sketch"]) else old["sketch"]
    return TableSnapshot(meta=msgspec.structs.replace(increment.meta, parent=base.meta.parent), arrays=arrays)
