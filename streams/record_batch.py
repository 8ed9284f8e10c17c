"""Kafka's record batches (magic 2), written many records at a time and without the interpreter's lock.

aiokafka's own builder takes one record after the other and sums them up without the processor's instruction for it:
a tenth of all that the worker did. What is laid out is Kafka's documentation, "Record Batch".
"""

import struct
from collections.abc import Iterator
from typing import Final

import crc32c
import lz4.frame
import numpy as np
from numba import njit
from numpy.typing import NDArray

from streams.columns import Columns

# What a batch may take on the wire: no topic is declared with less than a little over it.
MOST_BYTES: Final = 2**20
# What one may hold before compression: each is a request, and the next of its partition waits for the answer.
_MOST_UNPACKED_BYTES: Final = 8 * 2**20
# The most that a record takes beside its key and value.
_FRAME_BYTES: Final = 5 + 1 + 1 + 5 + 5 + 5 + 1
# Less than this is not worth the readers' unpacking.
_WORTH_PACKING_BYTES: Final = 16 * 2**10
# Base offset, length, leader's epoch, magic, checksum; then what the checksum covers: attributes, last offset, first
# and last time, producer's id and epoch, base sequence, count.
_HEAD: Final = struct.Struct(">qiibI")
_REST: Final = struct.Struct(">hiqqqhii")
_AFTER_LENGTH: Final = 12
_MAGIC: Final = 2
_LZ4, _TRANSACTIONAL = 0x03, 0x10


class RecordBatch:
    """Records of one partition in one transaction, as aiokafka's `send_batch` takes them: it asks for what its own
    `BatchBuilder` answers. `records`: framed, lz4 where `packed`; `count` of them, all of the time `at_ms`."""

    def __init__(self, records: bytes, count: int, at_ms: int, *, packed: bool) -> None:
        self._records, self._count, self._at_ms = records, count, at_ms
        self._attributes = _TRANSACTIONAL | (_LZ4 if packed else 0)
        self._producer = (-1, -1, -1)

    def record_count(self) -> int:
        """How many records it holds."""
        return self._count

    def size(self) -> int:
        """Bytes on the wire."""
        return _HEAD.size + _REST.size + len(self._records)

    def closed(self) -> bool:
        """Nothing can be added."""
        return True

    def close(self) -> None:
        """It is closed."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytes:
        last = self._count - 1
        rest = _REST.pack(self._attributes, last, self._at_ms, self._at_ms, *self._producer, self._count)
        checksum = crc32c.crc32c(self._records, crc32c.crc32c(rest))
        head = _HEAD.pack(0, self.size() - _AFTER_LENGTH, -1, _MAGIC, checksum)
        return b"".join((head, rest, self._records))


def record_batches(columns: Columns, at_ms: int, *, pack: bool, most_bytes: int = MOST_BYTES) -> Iterator[RecordBatch]:
    """Records of one partition as batches of at most `most_bytes` (100 or more), or of one record where that is larger.

    `at_ms` is the records' time; `pack` compresses what is large enough.
    """
    data, sizes = columns.data, columns.sizes
    # Where the data of each record ends, and how large they are at most, both summed up.
    ends = np.cumsum(np.maximum(sizes, 0).reshape(-1, 2).sum(axis=1))
    bounds = ends + _FRAME_BYTES * np.arange(1, len(ends) + 1)
    most_bytes -= _HEAD.size + _REST.size
    first, room = 0, _MOST_UNPACKED_BYTES if pack else most_bytes
    while first < len(ends):
        begin, below = (int(ends[first - 1]), int(bounds[first - 1])) if first else (0, 0)
        last = max(int(np.searchsorted(bounds, below + room, side="right")), first + 1)
        framed = np.empty(int(bounds[last - 1]) - below, dtype=np.uint8)
        size = _frame(data[begin : int(ends[last - 1])], sizes[2 * first : 2 * last], framed)
        packed = pack and size >= _WORTH_PACKING_BYTES
        # Kafka takes no blocks that depend on each other.
        records: bytes = lz4.frame.compress(framed[:size], block_linked=False) if packed else framed[:size].tobytes()
        if len(records) > most_bytes and room > most_bytes:
            # Of what does not get smaller, less at a time.
            room = most_bytes
            continue
        yield RecordBatch(records, last - first, at_ms, packed=packed)
        first = last


@njit(inline="always")
def _number(out: NDArray[np.uint8], at: int, number: int) -> int:
    """Writes a number as a zigzag varint; where the next byte goes."""
    rest = (number << 1) ^ (number >> 63)
    while rest > 0x7F:
        out[at] = (rest & 0x7F) | 0x80
        rest >>= 7
        at += 1
    out[at] = rest
    return at + 1


@njit(inline="always")
def _number_size(number: int) -> int:
    """How many bytes `_number` writes."""
    rest, size = (number << 1) ^ (number >> 63), 1
    while rest > 0x7F:
        rest >>= 7
        size += 1
    return size


@njit(cache=True, nogil=True)
def _frame(data: NDArray[np.uint8], sizes: NDArray[np.int64], out: NDArray[np.uint8]) -> int:
    """Writes records to `out` and returns their bytes: keys and values lie in `data` one behind the other, `sizes` says
    how large each is, -1 where it is null."""
    at = read = 0
    for k in range(len(sizes) // 2):
        body = 3 + _number_size(k)
        for size in sizes[2 * k : 2 * k + 2]:
            body += _number_size(size) + max(size, 0)
        at = _number(out, at, body)
        # No attributes, no time of its own.
        out[at] = out[at + 1] = 0
        at = _number(out, at + 2, k)
        for size in sizes[2 * k : 2 * k + 2]:
            at = _number(out, at, size)
            if size > 0:
                out[at : at + size] = data[read : read + size]
                at += size
                read += size
        # No headers.
        out[at] = 0
        at += 1
    return at
