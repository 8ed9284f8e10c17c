"""Files of examples are read as they are meant, whoever wrote them, and what cannot be read is named."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from online_learning.stored_examples import BadExamples, Place, stored_examples
from streams.records import Example, Label, LabelState

OLD_LOG = [
    {"ts": 5, "user": "u1", "item": "i1", "labels": {"click": 1.0}},
    {"ts": 6, "user": "u2", "item": "i2", "labels": {"click": 0.0, "rating": 1.0}, "scene": "home", "unknown": 3},
]


def read(path: Path) -> list[tuple[Example, Place | None]]:
    return list(stored_examples(path))


def test_somebody_elses_log_needs_no_more_than_time_user_item_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in OLD_LOG) + "\n\n")
    (first, nowhere), (second, _) = read(path)
    assert nowhere is None
    assert (first.example_id, second.example_id) == ("old.jsonl:0", "old.jsonl:1")
    assert first.labels == {"click": Label(LabelState.OBSERVED, 1.0)}
    assert (second.scene, second.labels["rating"].value) == ("home", 1.0)
    assert first.organic
    assert (first.negative_rate, first.propensity, first.revision) == (1.0, 1.0, 0)


def test_the_same_rows_are_read_the_same_from_every_kind_of_file(tmp_path: Path) -> None:
    rows = [
        {
            "ts": 7,
            "user": "u",
            "item": "i",
            "partition": 1,
            "offset": 9,
            "example_id": "r/0",
            "request_id": "r",
            "position": 0,
            "labels.task": ["click", "rating"],
            "labels.state": ["observed", "censored"],
            "labels.value": [1.0, 0.0],
            "context": '{"mood":"good"}',
            "user_features": '["user_stats",1,5,{"rating_mean":4.5}]',
            "item_features": [1.0, 2.5],
            "organic": False,
        }
    ]
    plain, packed, parquet = (tmp_path / name for name in ("log.ndjson", "log.json.gz", "log.parquet"))
    plain.write_text(json.dumps(rows[0]) + "\n")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    wanted = read(plain)
    assert read(packed) == read(parquet) == wanted
    ((example, place),) = wanted
    assert place == Place(1, 9)
    assert example.labels["rating"].state is LabelState.CENSORED
    assert example.context == {"mood": "good"}
    assert example.user_features is not None
    assert example.user_features.values == {"rating_mean": 4.5}
    assert not example.organic


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"ts": 1, "user": "u", "labels": {"click": 1}}', r"row 0: .*`item`"),
        ('{"ts": 1, "user": "u", "item": "i"}', "there is no label"),
        ('{"ts": 1, "user": "u", "item": "i", "labels": {"click": "x"}}', r"row 0: .*labels"),
        ('{"ts": 1, "user": "u", "item": "i", "labels": {"click": 1}, "negative_rate": 0}', "row 0: .*negative_rate"),
        ("{", "line 1"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_with_what_is_wrong(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(BadExamples, match=message):
        read(path)


def test_a_label_that_is_not_a_number_is_no_negative(tmp_path: Path) -> None:
    path = tmp_path / "gaps.parquet"
    rows = [{**OLD_LOG[0], "labels": None, "labels.task": ["click"], "labels.value": [float("nan")]}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(BadExamples, match="row 0: the label of 'click' is nan, must be a finite number"):
        read(path)


def test_a_file_that_was_cut_off_is_named(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(json.dumps(OLD_LOG[0] | {"ts": ts}) for ts in range(1_000)).encode())
    path = tmp_path / "cut.jsonl.gz"
    for broken in (whole[: len(whole) // 2], whole[:20] + b"x" * 200, b"no gzip"):
        path.write_bytes(broken)
        with pytest.raises(BadExamples, match=r"cut\.jsonl\.gz"):
            read(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for name in ("log.csv", "log", "log.csv.gz"):
        with pytest.raises(BadExamples, match="must end in"):
            read(tmp_path / name)
    (tmp_path / "log.parquet").write_bytes(b"no parquet")
    with pytest.raises(BadExamples, match="Parquet"):
        read(tmp_path / "log.parquet")
