"""What a checkpoint holds, and what its folder says of itself."""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.table.snapshot import SnapshotMeta, TableSnapshot

FORMAT: Final = 1

ANEW: Final = "begin anew in another `checkpoint_dir`"
"""What is left to whoever cannot take the checkpoints that are there: the last words of every refusal."""


class CheckpointError(Exception):
    """A checkpoint could not be written or read; the message says which and why. Older ones are intact."""


class Checkpoint(msgspec.Struct, kw_only=True):
    """One moment of a trainer: what it had learned and which input it had learned that from.

    tables: snapshots by table name (all whole, or all increments). dense: parameters and optimizer state by name.
    offsets: per topic and partition the next offset to read. epoch, sequence: the update log's position.
    meta: anything else (random state, settings), opaque here. number: set by the store.
    """

    tables: dict[str, TableSnapshot]
    dense: dict[str, NDArray[np.generic]]
    offsets: dict[str, dict[int, int]]
    epoch: int = 0
    sequence: int = 0
    meta: bytes = b""
    number: int = 0

    @property
    def whole(self) -> bool:
        """Whether it stands without a parent."""
        return all(snapshot.whole for snapshot in self.tables.values())


class ArrayEntry(msgspec.Struct, frozen=True):
    """Where an array lies in its file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


class FileEntry(msgspec.Struct, frozen=True):
    """A file of the folder: its size and xxh3-128, and the arrays in it."""

    name: str
    size_bytes: int
    xxh3_128: str
    arrays: tuple[ArrayEntry, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The table of contents; `parent`: number of the checkpoint it builds on; `folder`: where its parts lie in a store
    without renames."""

    format: int
    number: int
    parent: int | None
    epoch: int
    sequence: int
    offsets: dict[str, dict[int, int]]
    meta: bytes
    dense: FileEntry
    tables: dict[str, FileEntry]
    snapshots: dict[str, SnapshotMeta]
    folder: str = ""

    @property
    def size_bytes(self) -> int:
        """Bytes of all array files."""
        return self.dense.size_bytes + sum(entry.size_bytes for entry in self.tables.values())
