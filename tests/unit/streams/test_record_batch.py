"""Record batches are what any reader of Kafka's format reads the same records from."""

import random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from kafka.record.memory_records import MemoryRecords

from streams.columns import Entry, columns_of
from streams.record_batch import MOST_BYTES, RecordBatch, record_batches

sizes = st.one_of(st.integers(0, 300), st.sampled_from([63, 64, 8_191, 8_192, 70_000]))
parts = st.one_of(st.none(), st.binary(max_size=30), sizes.map(bytes))
entries = st.lists(st.tuples(parts, parts), min_size=1, max_size=200)
TRANSACTIONAL, LZ4 = 0x10, 0x03


def read(batch: RecordBatch, at_ms: int) -> list[Entry]:
    """The records by another's reader, their offsets, their time and the batch's checksum looked at."""
    batch._set_producer_state(7, 3, 11)
    data = batch._build()
    assert len(data) == batch.size()
    found: Any = MemoryRecords(data).next_batch()
    assert found.validate_crc()
    assert found.is_transactional
    assert (found.producer_id, found.producer_epoch, found.base_sequence) == (7, 3, 11)
    records: list[Any] = list(found)
    assert [record.offset for record in records] == list(range(batch.record_count()))
    assert {record.timestamp for record in records} == {at_ms}
    return [(record.key, record.value) for record in records]


@given(entries, st.integers(0, 2**53), st.booleans())
@example([(b"k", bytes(2_000))] * 3_000, 1, True)
@example([(b"k", bytes(2_000))] * 3_000, 1, False)
def test_what_goes_in_is_read_again(records: list[Entry], at_ms: int, pack: bool) -> None:
    batches = list(record_batches(columns_of(records), at_ms, pack=pack))
    assert [entry for batch in batches for entry in read(batch, at_ms)] == records


def test_a_batch_is_at_most_a_mebibyte_unless_one_record_is_more() -> None:
    records: list[Entry] = [(b"k", bytes(300_000))] * 8 + [(b"k", bytes(3 * 2**20))] + [(b"k", None)] * 5
    batches = list(record_batches(columns_of(records), 1, pack=False))
    assert [batch.record_count() for batch in batches] == [3, 3, 2, 1, 5]
    assert [batch.size() <= MOST_BYTES for batch in batches] == [True, True, True, False, True]
    assert [batch.record_count() for batch in record_batches(columns_of(records), 1, pack=False, most_bytes=2**23)] == [
        14
    ]


def test_what_is_packed_counts_as_it_goes_out() -> None:
    similar: list[Entry] = [(b"k", bytes(1_000))] * 20_000
    different: list[Entry] = [(b"k", random.Random(k).randbytes(1_000)) for k in range(5_000)]
    assert len(list(record_batches(columns_of(similar), 1, pack=True))) == 3
    batches = list(record_batches(columns_of(different + similar), 1, pack=True))
    assert max(batch.size() for batch in batches) <= MOST_BYTES
    assert [entry for batch in batches for entry in read(batch, 1)] == different + similar


def test_what_repeats_itself_is_packed_and_what_is_small_is_not() -> None:
    large, small = columns_of([(b"k", b"x" * 300)] * 1_000), columns_of([(b"k", b"x" * 300)] * 3)
    (packed,), (plain,) = record_batches(large, 1, pack=True), record_batches(large, 1, pack=False)
    assert packed.size() < plain.size() / 20
    (few,) = record_batches(small, 1, pack=True)
    assert few.size() > 900


@given(st.lists(st.tuples(parts, parts), max_size=50))
def test_columns_are_their_records(records: list[Entry]) -> None:
    columns = columns_of(records)
    assert len(columns) == len(records)
    assert list(columns.entries()) == records
