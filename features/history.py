"""The offline history: a folder of parquet parts per view, each named by the stretch of the log that it holds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP, history_folder
from features.views import LINEAGE, VIEWS, Kind, View
from streams.failpoints import hit
from streams.records import FeatureRow

_TYPES = {Kind.FLOAT: pa.float64(), Kind.INT: pa.int64(), Kind.TEXT: pa.string(), Kind.TEXTS: pa.list_(pa.string())}
_TIME = pa.timestamp("ms", tz="UTC")


def schema(view: View) -> pa.Schema:
    """Columns of a part: entities, values, lineage, then Feast's event and creation times (ms, UTC)."""
    columns = {**view.columns, **LINEAGE}
    return pa.schema(
        [(name, pa.string()) for name in view.entities]
        + [(name, _TYPES[kind]) for name, kind in columns.items()]
        + [(EVENT_TIMESTAMP, _TIME), (CREATED_TIMESTAMP, _TIME)]
    )


class History:
    """Parts under `repo/history/<view>/<topic>-<partition>-<first>-<last>.parquet` (offsets, both inclusive).

    A part appears by one rename. Parts whose stretch was not committed are removed by `forget_after`, so that a repeat
    after a crash cannot double a row.
    """

    def __init__(self, repo: Path, topic: str) -> None:
        self._repo, self._topic = repo, topic
        for view in VIEWS.values():
            history_folder(repo, view).mkdir(parents=True, exist_ok=True)

    def write(self, partition: int, first: int, last: int, rows: Iterable[FeatureRow]) -> None:
        """Writes the rows of offsets `first` to `last` of a partition, one part for every view that has any."""
        by_view: dict[str, list[FeatureRow]] = {}
        for row in rows:
            by_view.setdefault(row.view, []).append(row)
        for name, of_view in by_view.items():
            view = VIEWS[name]
            part = history_folder(self._repo, view) / f"{self._topic}-{partition}-{first}-{last}.parquet"
            _write(part, pa.Table.from_pylist([_record(view, row) for row in of_view], schema=schema(view)))

    def forget_after(self, partition: int, position: int) -> None:
        """Removes the parts of a partition that begin at offset `position` or later."""
        for view in VIEWS.values():
            for part in history_folder(self._repo, view).glob(f"{self._topic}-{partition}-*-*.parquet"):
                if int(part.stem.rsplit("-", 2)[1]) >= position:
                    part.unlink()

    def erase(self, keys: Sequence[tuple[str, ...]]) -> int:
        """Removes all rows of the given keys ((view, *entity values)) from every part; returns how many there were."""
        gone: dict[str, set[tuple[str, ...]]] = {}
        for name, *values in keys:
            gone.setdefault(name, set()).add(tuple(values))
        return sum(self._erase(VIEWS[name], entities) for name, entities in gone.items())

    def _erase(self, view: View, entities: set[tuple[str, ...]]) -> int:
        erased = 0
        for part in sorted(history_folder(self._repo, view).glob("*.parquet")):
            read = pq.read_table(part, columns=list(view.entities)).to_pydict()
            keep = [values not in entities for values in zip(*read.values(), strict=True)]
            if all(keep):
                continue
            erased += keep.count(False)
            if any(keep):
                _write(part, pq.read_table(part).filter(pa.array(keep)))
            else:
                part.unlink()
        return erased


def _column(kind: Kind, value: Any) -> Any:
    # parquet refuses an integer that a float cannot hold exactly; the online store rounds it.
    return float(value) if kind is Kind.FLOAT and value is not None else value


def _record(view: View, row: FeatureRow) -> Mapping[str, Any]:
    return {
        **row.entities,
        **{name: _column(kind, row.values.get(name)) for name, kind in view.columns.items()},
        "version": row.version,
        "available_at": row.available_at,
        EVENT_TIMESTAMP: row.ts,
        CREATED_TIMESTAMP: row.available_at,
    }


def _write(part: Path, table: pa.Table) -> None:
    # A leading dot keeps a half-written part out of what Feast and we list.
    new = part.with_name(f".{part.name}.new")
    pq.write_table(table, new, compression="zstd")
    hit("features.part-written")
    new.replace(part)
    hit("features.part-renamed")
