"""A table restored at another number of shards: every shard takes its keys from all the shards that were saved.

A key's shard is a function of the key and the number of shards alone, so whoever asks for shard i of m gets the same
rows however many shards wrote the checkpoint. It is a library for whoever takes a checkpoint into another system, or
splits a table that one process can no longer hold: the trainer and the replica here have one shard, and read it whole.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.table.snapshot import ROW_ARRAYS, TOMBSTONE_ARRAYS, TableSnapshot


def shard_of(keys: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """The shard in [0, shards) of each key u64 [n].

    Keys are mixed first (the finaliser of SplitMix64, Steele et al. 2014), because small ones may be somebody's own
    numbering; the upper half of the mix then falls into `shards` equal parts.
    """
    mixed = keys.astype(np.uint64, copy=True)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(32)) * np.uint64(shards) >> np.uint64(32)).astype(np.int64)


def table_shard(checkpoint: Checkpoint, table: str, *, shard: int = 0, shards: int = 1) -> TableSnapshot:
    """Shard `shard` of `shards` of a table, whole, from a checkpoint of any number of shards.

    A table of one shard is saved under its name, one of several as `NAME/0`, `NAME/1`, … Where anything had to be
    picked or put together, the next checkpoint of the restored table must be whole: nothing that was saved is what an
    increment of it would build on. Raises CheckpointError where the table is not there, or its shards do not fit
    together; ValueError for a shard outside [0, shards).
    """
    if not 0 <= shard < shards:
        raise ValueError(f"`shard` == {shard}, must be in [0, {shards})")
    parts = [part for name, part in checkpoint.tables.items() if name == table or _is_shard(name, table)]
    if not parts:
        raise CheckpointError(f"checkpoint {checkpoint.number} has no table {table!r}")
    if len(parts) == shards == 1:
        return parts[0]
    return union([_picked(part, shard, shards) for part in parts])


def union(parts: Sequence[TableSnapshot]) -> TableSnapshot:
    """One whole snapshot of whole snapshots that share no key.

    Raises CheckpointError where they are of different kinds of table, or share keys.
    """
    first = parts[0].meta
    for part in parts:
        same = (part.meta.dim, part.meta.optimizer, part.meta.seed) == (first.dim, first.optimizer, first.seed)
        if not part.whole or not same or part.arrays["state"].shape[1:] != parts[0].arrays["state"].shape[1:]:
            raise CheckpointError(f"the shards of table {first.name!r} do not fit together")
    arrays: dict[str, NDArray[Any]] = {
        name: np.concatenate([part.arrays[name] for part in parts]) for name in (*ROW_ARRAYS, *TOMBSTONE_ARRAYS)
    }
    if len(np.unique(arrays["keys"])) != len(arrays["keys"]):
        raise CheckpointError(f"the shards of table {first.name!r} share keys")
    arrays["sketch"] = _summed([part.arrays["sketch"] for part in parts])
    meta = msgspec.structs.replace(
        first,
        # No checkpoint has this generation, so that no increment builds on one by mistake.
        generation=max(part.meta.generation for part in parts) + 1,
        parent=None,
        steps=max(part.meta.steps for part in parts),
        sightings=sum(part.meta.sightings for part in parts),
        draws=max(part.meta.draws for part in parts),
        forgotten_before=min(part.meta.forgotten_before for part in parts),
        unadmitted=sum(part.meta.unadmitted for part in parts),
        refused=sum(part.meta.refused for part in parts),
    )
    return TableSnapshot(meta=meta, arrays=arrays)


def _is_shard(name: str, table: str) -> bool:
    prefix, _, number = name.rpartition("/")
    return prefix == table and number.isdigit()


def _picked(snapshot: TableSnapshot, shard: int, shards: int) -> TableSnapshot:
    arrays: dict[str, NDArray[Any]] = dict(snapshot.arrays)
    for names in (ROW_ARRAYS, TOMBSTONE_ARRAYS):
        mine = shard_of(arrays[names[0]], shards) == shard
        arrays |= {name: arrays[name][mine] for name in names}
    # The admission filter stays whole, or it would count keys of this shard too low.
    return TableSnapshot(meta=snapshot.meta, arrays=arrays)


def _summed(sketches: Sequence[NDArray[Any]]) -> NDArray[np.uint16]:
    """Count-min sketches of disjoint keys, added up; where their widths differ, admission begins anew."""
    if len({len(sketch) for sketch in sketches}) != 1:
        return np.empty(0, np.uint16)
    total = np.zeros(len(sketches[0]), np.uint32)
    for sketch in sketches:
        total += sketch
    return np.minimum(total, np.iinfo(np.uint16).max).astype(np.uint16)
