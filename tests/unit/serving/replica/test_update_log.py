"""What a replica holds is the trainer's table, in the encoding that rows travel in, wherever it started from."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.checkpoint.store import CheckpointStore
from online_learning.state import CheckpointMeta, Counters, TrainerState, dense_arrays
from online_learning.table.digest import Encoding
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.updates.frames import RowEncoding, Rows, epoch_frame, sparse_frames
from online_learning.updates.position import TABLE, LogPosition, StreamPosition, stream_of
from online_learning.updates.sequence import Gap
from online_learning.watching.progressive import ProgressiveState
from serving.replica.update_log import UpdateLog
from serving.shared.head import HeadWriter
from streams.records import Frame

DIM = 6


def change(table: Table, first: int, n: int, version: int) -> np.ndarray:
    keys = np.arange(first, first + n, dtype=np.uint64)
    slots = table.find_or_insert(keys, np.zeros(n, np.uint16), version * 1000, version)
    # Also beyond what fp16 can hold.
    grads = np.random.default_rng(version).normal(size=(n, DIM)).astype(np.float32)
    grads[0] = 1e8
    table.apply_gradients(slots, grads, version, learning_rate=0.05 if version % 2 else 1e5)
    return keys


def frame_of(table: Table, keys: np.ndarray, sequence: int, encoding: RowEncoding) -> Frame:
    export = table.export(keys)
    rows = Rows(export.keys, export.spaces, export.rows, export.tombstones)
    (frame,) = sparse_frames(
        rows,
        table=TABLE,
        shard=0,
        epoch=1,
        first_sequence=sequence,
        created_at=0,
        encoding=encoding,
        learned_before={},
        learned={0: sequence},
    )
    return frame


def begins(epoch: int, created_at: int) -> Frame:
    return epoch_frame(table=TABLE, shard=0, epoch=epoch, resumes_epoch=0, resumes=0, created_at=created_at, learned={})


def keep(folder: Path, table: Table, position: LogPosition) -> None:
    CheckpointStore(folder).save(
        Checkpoint(
            tables={TABLE: table.snapshot()},
            dense=dense_arrays({}, TrainerState(b"", {}, ProgressiveState(), [])),
            offsets={},
            meta=msgspec.json.encode(CheckpointMeta(position, Counters(), (), ())),
        )
    )


@pytest.mark.parametrize(("encoding", "serving"), [("f32", Encoding.FP32), ("f16", Encoding.FP16)])
def test_rows_from_a_checkpoint_and_from_frames_are_the_same(
    tmp_path: Path, encoding: RowEncoding, serving: Encoding
) -> None:
    table = Table(TableSettings(dim=DIM), 3)
    change(table, 1, 300, 1)
    position = LogPosition({stream_of(TABLE, 0): StreamPosition(1, 1)}, {0: 9}, {stream_of(TABLE, 0): 0})
    keep(tmp_path / "kept", table, position)
    for folder in ("shm", "other"):
        (tmp_path / folder).mkdir()
    log = UpdateLog(HeadWriter(tmp_path / "shm"), str(tmp_path / "kept"), DIM, encoding)
    assert log.begin() == position
    assert log.table.digest(serving) == table.digest(serving)

    # A replica that was there before the checkpoint has the same rows from frames alone.
    other = UpdateLog(HeadWriter(tmp_path / "other"), "", DIM, encoding)
    other.begin()
    other.apply(begins(1, 0))
    other.apply(frame_of(table, np.arange(1, 301, dtype=np.uint64), 1, encoding))
    assert other.table.digest() == log.table.digest()

    keys = change(table, 200, 200, 2)
    table.remove(keys[:50], 0, 3)
    for one in (log, other):
        one.apply(frame_of(table, keys, 2, encoding))
        assert one.table.digest(serving) == table.digest(serving)
    assert other.table.digest() == log.table.digest()
    assert (log.table.digest() == table.digest()) == (encoding == "f32")


def test_after_a_checkpoint_a_log_that_begins_anew_is_a_gap(tmp_path: Path) -> None:
    table = Table(TableSettings(dim=DIM))
    stream = stream_of(TABLE, 0)
    keep(tmp_path / "kept", table, LogPosition({stream: StreamPosition(57, 9)}, {0: 9}, {stream: 5_000}))
    (tmp_path / "shm").mkdir()
    log = UpdateLog(HeadWriter(tmp_path / "shm"), str(tmp_path / "kept"), DIM)
    log.begin()
    for created_at in (4_999, 5_000):
        log.apply(begins(1, created_at))
    with pytest.raises(Gap, match="begins anew"):
        log.apply(begins(1, 5_001))


def test_a_frame_of_another_model_is_a_gap_even_without_rows(tmp_path: Path) -> None:
    log = UpdateLog(HeadWriter(tmp_path), "", DIM)
    log.begin()
    log.apply(begins(1, 0))
    with pytest.raises(Gap, match="another model"):
        log.apply(frame_of(Table(TableSettings(dim=DIM + 1)), np.empty(0, np.uint64), 1, "f32"))
