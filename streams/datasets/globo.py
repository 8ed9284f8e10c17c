"""Globo.com news clicks (de Souza Pereira Moreira et al. 2018): anonymous articles, ms times, sessions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streams.datasets.dataset import Dataset, DatasetMissing
from streams.records import Event, Item, User

NAME, SCENE = "globo", "news"

_CONTEXT = ("environment", "device_group", "os", "country", "region", "referrer_type")
_ROWS = 20_000


def open_globo(folder: Path) -> Dataset:
    """Clicks in time order, with session and device context; no `session_size`, which is the future.

    `referrer_type` tells how the reader came to this very click. Articles have ids only. A session's last click is
    stamped exactly 30 s after the one before.
    """
    # Kept out of the command line's start, where most commands read no parquet.
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = folder / NAME / "clicks.parquet"
    if not path.exists():
        raise DatasetMissing(f"{NAME}: no file {path}")
    metadata = pq.ParquetFile(path).metadata
    last = pq.ParquetFile(path).read_row_group(metadata.num_row_groups - 1, columns=["ts_ms"])

    def events(start: int) -> Iterator[Event]:
        file, at = pq.ParquetFile(path), 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if at + rows > start:
                for batch in file.iter_batches(_ROWS, row_groups=[group]):
                    if at + batch.num_rows > start:
                        skipped = max(0, start - at)
                        yield from _events(batch.slice(skipped).to_pylist(), at + skipped)
                    at += batch.num_rows
            else:
                at += rows

    def items() -> Iterator[Item]:
        articles = pc.unique(pq.read_table(path, columns=["article_id"])["article_id"]).sort()
        for article in articles.to_pylist():
            yield Item(item=f"gl-i-{article}", scene=SCENE)

    def users() -> Iterator[User]:
        return iter(())

    return Dataset(NAME, SCENE, metadata.num_rows, pc.max(last["ts_ms"]).as_py(), events, items, users)


def _events(rows: list[dict[str, Any]], first: int) -> Iterator[Event]:
    for k, row in enumerate(rows, first):
        yield Event(
            ts=row["ts_ms"],
            user=f"gl-u-{row['user_id']}",
            item=f"gl-i-{row['article_id']}",
            kind="click",
            event_id=f"{NAME}-{k}",
            session=str(row["session_id"]),
            scene=SCENE,
            context={name: row[name] for name in _CONTEXT},
        )
