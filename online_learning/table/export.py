"""What a table gives away: rows for serving, and the refusal to lose any."""

import msgspec

from online_learning.table.arguments import Floats, Keys, Spaces


class TableFull(Exception):
    """A table that may not evict nor refuse has no place for a key; the rows that were there are intact."""


class Export(msgspec.Struct, frozen=True):
    """Rows as serving needs them: keys u64 [n], spaces u16 [n], versions u64 [n], rows f32 [n, dim]; and the
    keys u64 [t] that are gone, with the versions u64 [t] of their removal (0: not known any more)."""

    keys: Keys
    spaces: Spaces
    versions: Keys
    rows: Floats
    tombstones: Keys
    tombstone_versions: Keys
