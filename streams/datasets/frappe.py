"""Frappe (Baltrunas et al. 2015) in the BARS split Frappe_x1: apps used in a context, against sampled negatives.

The log has no times. Rows are taken in file order (train, valid, test), one a second from 2015-01-01, and say so by
`context.made_up_time`. The split's train negatives are re-drawn, so they tell nothing about what anyone was shown:
a positive is an event of kind `click`, a negative one of kind `skip` with value 0. By default a skip labels nothing;
the rule `{task = "click", kind = "skip", at_least = 1.0}` makes it a 0.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from streams.datasets.dataset import Dataset, DatasetMissing
from streams.records import Event, Item, User

NAME, SCENE = "frappe", "apps"

FIRST_TS = 1_420_070_400_000
_STEP_MS = 1_000
_CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
_SPLITS = ("train", "valid", "test")
_ROWS = 20_000


def open_frappe(folder: Path) -> Dataset:
    """Clicks and skips in file order at made-up times, with their context decoded to its names."""
    import pyarrow.parquet as pq

    source = folder / "frappe_x1"
    paths = [source / f"{split}.parquet" for split in _SPLITS]
    for path in (*paths, source / "feature_encoding.json"):
        if not path.exists():
            raise DatasetMissing(f"{NAME}: no file {path}")
    names = _decoding(source / "feature_encoding.json")
    counts = [pq.ParquetFile(path).metadata.num_rows for path in paths]

    def events(start: int) -> Iterator[Event]:
        at = 0
        for path, count in zip(paths, counts, strict=True):
            if at + count <= start:
                at += count
                continue
            for batch in pq.ParquetFile(path).iter_batches(_ROWS):
                for k, row in enumerate(batch.to_pylist(), at):
                    if k >= start:
                        yield _event(k, row, names)
                at += batch.num_rows

    def items() -> Iterator[Item]:
        for row in pq.read_table(source / "apps.parquet").to_pylist():
            known = {key: row[column] for key, column in _ATTRIBUTES.items() if row[column]}
            text = row["description"] or ""
            yield Item(item=f"fr-i-{row['item']}", scene=SCENE, attributes=known, text=text)

    def users() -> Iterator[User]:
        return iter(())

    last_ts = FIRST_TS + (sum(counts) - 1) * _STEP_MS
    return Dataset(NAME, SCENE, sum(counts), last_ts, events, items, users)


_ATTRIBUTES = {"title": "name", "category": "category", "language": "language", "price": "price"}


def _decoding(path: Path) -> dict[str, dict[int, str]]:
    encoding: dict[str, dict[str, int]] = json.loads(path.read_text())
    return {field: {code: name for name, code in codes.items()} for field, codes in encoding.items()}


def _event(k: int, row: dict[str, int], names: dict[str, dict[int, str]]) -> Event:
    positive = row["label"] == 1
    return Event(
        ts=FIRST_TS + k * _STEP_MS,
        user=f"fr-u-{names['user'][row['user']]}",
        item=f"fr-i-{names['item'][row['item']]}",
        kind="click" if positive else "skip",
        value=None if positive else 0.0,
        event_id=f"{NAME}-{k}",
        scene=SCENE,
        context={"made_up_time": True, **{field: names[field][row[field]] for field in _CONTEXT}},
    )
