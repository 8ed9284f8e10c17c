"""Arrays to frames of the update log and back; rows travel as fp32 or fp16."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.table.digest import Encoding
from streams.records import SCHEMA_VERSION, Frame, FrameKind, Tensor

RowEncoding = Literal["f32", "f16"]

# Half of Kafka's usual limit for a message: a frame is one message, and small ones are applied sooner.
MAX_FRAME_BYTES: Final = 512 * 1024
_ROW_DTYPE: Final[Mapping[str, str]] = {"f32": "<f4", "f16": "<f2"}
_ENCODINGS: Final[Mapping[str, Encoding]] = {"f32": Encoding.FP32, "f16": Encoding.FP16}


class BadFrame(ValueError):
    """A frame whose parts do not fit together; the message names the frame and the part."""


class Rows(msgspec.Struct, frozen=True):
    """Changed rows of one table: keys u64 [n], spaces u16 [n], values f32 [n, dim]; tombstones u64 [m] are gone."""

    keys: NDArray[np.uint64]
    spaces: NDArray[np.uint16]
    values: NDArray[np.float32]
    tombstones: NDArray[np.uint64]


def encode_rows(values: NDArray[np.float32], encoding: RowEncoding) -> bytes:
    """Rows f32 [n, dim] as bytes."""
    return np.ascontiguousarray(_ENCODINGS[encoding].encode_rows(values), dtype=_ROW_DTYPE[encoding]).tobytes()


def as_sent(values: NDArray[np.float32], encoding: RowEncoding) -> NDArray[np.float32]:
    """Rows f32 [n, dim] as a reader of frames in this encoding has them: what a replica must take from a checkpoint,
    which is always fp32, to be the same wherever it started."""
    return _ENCODINGS[encoding].encode_rows(values).astype(np.float32, copy=False)


def sparse_frames(
    rows: Rows,
    *,
    table: str,
    shard: int,
    epoch: int,
    first_sequence: int,
    created_at: int,
    encoding: RowEncoding = "f32",
    learned_before: Mapping[int, int],
    learned: Mapping[int, int],
    max_bytes: int = MAX_FRAME_BYTES,
) -> Iterator[Frame]:
    """Cuts `rows` into frames of about `max_bytes` with dense sequences from `first_sequence`; at least one frame.

    Only the last frame carries `learned`: until it, what is completely in is what was so before.
    """
    dim = rows.values.shape[1]
    row_bytes = 10 + dim * np.dtype(_ROW_DTYPE[encoding]).itemsize
    size = max(1, max_bytes // row_bytes)
    dead_size = max(1, max_bytes // 8)
    live_frames = -(-len(rows.keys) // size)
    dead_frames = -(-len(rows.tombstones) // dead_size)
    total = max(1, live_frames, dead_frames)
    for k in range(total):
        live, dead = slice(k * size, (k + 1) * size), slice(k * dead_size, (k + 1) * dead_size)
        yield Frame(
            v=SCHEMA_VERSION,
            kind=FrameKind.SPARSE,
            table=table,
            shard=shard,
            epoch=epoch,
            sequence=first_sequence + k,
            created_at=created_at,
            learned=dict(learned if k == total - 1 else learned_before),
            encoding=encoding,
            dim=dim,
            keys=rows.keys[live].astype("<u8", copy=False).tobytes(),
            spaces=rows.spaces[live].astype("<u2", copy=False).tobytes(),
            rows=encode_rows(rows.values[live], encoding),
            tombstones=rows.tombstones[dead].astype("<u8", copy=False).tobytes(),
        )


def rows_of(frame: Frame) -> Rows:
    """The rows of a sparse frame, as f32 whatever the encoding; raises BadFrame."""
    dtype = _ROW_DTYPE.get(frame.encoding)
    if dtype is None:
        raise BadFrame(f"{_name(frame)}: `encoding` == {frame.encoding!r}, must be one of: f32, f16")
    keys, spaces = _part(frame, "keys", "<u8"), _part(frame, "spaces", "<u2")
    values = _part(frame, "rows", dtype)
    if frame.dim < 0 or len(spaces) != len(keys) or len(values) != len(keys) * frame.dim:
        found = f"{len(keys)} keys, {len(spaces)} spaces, {len(values)} values of dim {frame.dim}"
        raise BadFrame(f"{_name(frame)}: {found}")
    return Rows(
        keys=keys.astype(np.uint64, copy=False),
        spaces=spaces.astype(np.uint16, copy=False),
        values=values.reshape(len(keys), frame.dim).astype(np.float32, copy=False),
        tombstones=_part(frame, "tombstones", "<u8").astype(np.uint64, copy=False),
    )


def dense_frame(
    parameters: Mapping[str, NDArray[Any]],
    *,
    table: str,
    shard: int,
    epoch: int,
    sequence: int,
    created_at: int,
    trained_with: Mapping[str, int],
    learned: Mapping[int, int],
) -> Frame:
    """A bundle of dense parameters and the sparse sequences that they were trained with."""
    return Frame(
        v=SCHEMA_VERSION,
        kind=FrameKind.DENSE,
        table=table,
        shard=shard,
        epoch=epoch,
        sequence=sequence,
        created_at=created_at,
        learned=dict(learned),
        dense={name: tensor_of(array) for name, array in parameters.items()},
        trained_with=dict(trained_with),
    )


def epoch_frame(
    *,
    table: str,
    shard: int,
    epoch: int,
    resumes_epoch: int,
    resumes: int,
    created_at: int,
    learned: Mapping[int, int],
) -> Frame:
    """The frame with which a trainer takes a stream over from the state of its checkpoint."""
    return Frame(
        v=SCHEMA_VERSION,
        kind=FrameKind.EPOCH,
        table=table,
        shard=shard,
        epoch=epoch,
        sequence=0,
        created_at=created_at,
        learned=dict(learned),
        resumes=resumes,
        resumes_epoch=resumes_epoch,
    )


def tensor_of(array: NDArray[Any]) -> Tensor:
    """An array as it travels: little-endian, C order."""
    plain = np.ascontiguousarray(array)
    plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    # ascontiguousarray makes a scalar one-dimensional: the shape is the caller's.
    return Tensor(dtype=plain.dtype.str, shape=list(np.shape(array)), data=plain.tobytes())


def array_of(tensor: Tensor) -> NDArray[Any]:
    """A read-only view of a tensor's bytes."""
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype)).reshape(tensor.shape)


def tensors_of(frame: Frame) -> dict[str, NDArray[Any]]:
    """The dense parameters of a frame by name, read-only; raises BadFrame."""
    try:
        return {name: array_of(tensor) for name, tensor in frame.dense.items()}
    except (TypeError, ValueError) as error:
        raise BadFrame(f"{_name(frame)}: {error}") from error


def _part(frame: Frame, part: str, dtype: str) -> NDArray[Any]:
    content: bytes = getattr(frame, part)
    try:
        return np.frombuffer(content, dtype)
    except ValueError as error:
        raise BadFrame(f"{_name(frame)}: {len(content)} bytes of `{part}`: {error}") from error


def _name(frame: Frame) -> str:
    return f"frame {frame.table}/{frame.shard} epoch {frame.epoch} sequence {frame.sequence}"
