"""What a table really costs and how full it is."""

import msgspec


class TableStats(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a table; bytes are of memory in use, by part.

    `overhead_bytes_per_row`: header, flags and index per row as they are now; `overhead_at_full_load`: the same with
    the index at load 0.75. `collision_bound`: chance that any two keys ever given (rows) share their 64 bits.
    `probe_mean`, `probe_max`: places looked at behind the first for a key that is there.
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
