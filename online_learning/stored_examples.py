"""Stored examples: files of them as ClickHouse exports its table `examples`, or as somebody else's log may be written.

One row is one example, by the names of that table's columns; Parquet (`.parquet`) or one JSON object a line (`.jsonl`,
`.ndjson`, `.json`, also with `.gz`). Needed are `ts`, `user`, `item` and labels; the rest has the defaults of an
organic example. `labels.task`, `labels.value` and `labels.state` are lists side by side, or `labels` maps tasks to
values.

    SELECT * FROM examples ORDER BY offset, partition INTO OUTFILE 'examples.parquet'
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Final, NamedTuple

import msgspec

from streams.records import SCHEMA_VERSION, Assignment, Example, Label, LabelState, UsedFeatures

_ROWS_AT_ONCE: Final = 4_096


class BadExamples(ValueError):
    """A file that cannot be read as stored examples; the message names the file, the row and the column."""


class Place(NamedTuple):
    """Where an example stood on the topic."""

    partition: int
    offset: int


class _Row(msgspec.Struct, kw_only=True):
    ts: int
    user: str
    item: str
    partition: int | None = None
    offset: int | None = None
    example_id: str = ""
    revision: int = 0
    request_id: str | None = None
    position: int = -1
    propensity: float = 1.0
    scene: str = ""
    session: str | None = None
    policy: str = ""
    experiments: list[str] = msgspec.field(name="arms.experiment", default=[])
    arms: list[str] = msgspec.field(name="arms.arm", default=[])
    unit_types: list[str] = msgspec.field(name="arms.unit_type", default=[])
    units: list[str] = msgspec.field(name="arms.unit", default=[])
    versions: list[int] = msgspec.field(name="arms.version", default=[])
    phases: list[str] = msgspec.field(name="arms.phase", default=[])
    tasks: list[str] = msgspec.field(name="labels.task", default=[])
    states: list[LabelState] = msgspec.field(name="labels.state", default=[])
    label_values: list[float] = msgspec.field(name="labels.value", default=[])
    labels: dict[str, float] = {}
    user_features: str | None = None
    item_features: list[float] = []
    context: str | None = None
    negative_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    negative_emitted: bool = False
    organic: bool | None = None
    late: bool = False
    correction: bool = False
    cause: str | None = None
    kind: str = ""
    value: float | None = None

    def example(self, name: str) -> Example:
        """The record; `name` is its id where the file has none. Raises ValueError, msgspec.DecodeError."""
        labels = {task: Label(LabelState.OBSERVED, value) for task, value in self.labels.items()}
        states = self.states or [LabelState.OBSERVED] * len(self.tasks)
        for task, state, value in zip(self.tasks, states, self.label_values, strict=True):
            labels[task] = Label(state, value)
        for task, label in labels.items():
            if not math.isfinite(label.value):
                raise ValueError(f"the label of {task!r} is {label.value}, must be a finite number")
        if not labels:
            raise ValueError("there is no label: neither `labels` nor `labels.task`")
        arms = zip(self.experiments, self.arms, self.unit_types, self.units, self.versions, self.phases, strict=True)
        request_id = self.request_id or None
        return Example(
            v=SCHEMA_VERSION,
            example_id=self.example_id or name,
            revision=self.revision,
            ts=self.ts,
            user=self.user,
            item=self.item,
            labels=labels,
            request_id=request_id,
            position=self.position,
            propensity=self.propensity,
            scene=self.scene,
            session=self.session or None,
            context=msgspec.json.decode(self.context, type=dict[str, Any]) if self.context else {},
            arms=[Assignment(*arm) for arm in arms],
            policy=self.policy,
            user_features=msgspec.json.decode(self.user_features, type=UsedFeatures) if self.user_features else None,
            item_features=self.item_features,
            negative_rate=self.negative_rate,
            negative_emitted=self.negative_emitted,
            organic=request_id is None if self.organic is None else self.organic,
            late=self.late,
            correction=self.correction,
            cause=self.cause or None,
            kind=self.kind,
            value=self.value,
        )


def stored_examples(path: Path) -> Iterator[tuple[Example, Place | None]]:
    """The examples of a file in its order, each with its place on the topic where the file has `partition` and
    `offset`. Raises BadExamples, OSError."""
    for number, raw in enumerate(_rows(path)):
        try:
            row = msgspec.convert(raw, _Row, strict=False)
            place = None if row.partition is None or row.offset is None else Place(row.partition, row.offset)
            yield row.example(f"{path.name}:{number}"), place
        except (ValueError, msgspec.DecodeError) as error:
            raise BadExamples(f"{path}, row {number}: {error}") from error


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    suffixes = path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]
    if not suffixes or suffixes[0] not in (".jsonl", ".ndjson", ".json"):
        raise BadExamples(f"{path}: must end in .parquet, .jsonl, .ndjson or .json, or one of those with .gz")
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield from _json_lines(path, file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BadExamples(f"{path}: {error}") from error


def _json_lines(path: Path, file: IO[bytes] | gzip.GzipFile) -> Iterator[Any]:
    for number, line in enumerate(file):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line)
        except msgspec.DecodeError as error:
            raise BadExamples(f"{path}, line {number + 1}: {error}") from error


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {field.encode_name for field in msgspec.structs.fields(_Row)}
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in known]
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns):
                # What is absent has its default, as in a JSON object without the name.
                yield from ({name: v for name, v in row.items() if v is not None} for row in batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise BadExamples(f"{path}: {error}") from error
