"""The update log, applied: from a checkpoint on, frame by frame, into the shared table and the dense bundle."""

import logging
import time
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.checkpoint.storage import storage_at
from online_learning.checkpoint.store import CheckpointStore
from online_learning.state import dense_parameters, log_position
from online_learning.updates.frames import RowEncoding, as_sent, rows_of, tensors_of
from online_learning.updates.position import DENSE, TABLE, LogPosition, StreamPosition, stream_of
from online_learning.updates.sequence import FrameOrder, Gap, Verdict
from serving.shared.dense_bundle import DenseWriter
from serving.shared.head import HeadWriter, Lineage
from serving.shared.shared_table import SharedTableWriter
from streams.failpoints import hit
from streams.records import Frame, FrameKind
from streams.topics import EXAMPLES

logger = logging.getLogger(__name__)

_SPACE_MASK: Final = np.uint64(0xFFFF)
_REMEMBERED_LATENCIES: Final = 2_000
_ONE_MODEL: Final = "start trainer and replica with the same `learning.model`"

Keys = NDArray[np.uint64]


class UpdateLog:
    """Applies frames in the log's order.

    `begin` builds a new table beside the one that readers see; `apply` follows the log; `publish` makes the new table
    theirs. After a Gap, `begin` again: readers go on with the table that they have. `encoding`: in which rows travel;
    a checkpoint's rows are rounded as frames are, so that a row is the same wherever it came from.
    """

    def __init__(self, head: HeadWriter, checkpoints: str, width: int, encoding: RowEncoding = "f32") -> None:
        self._head, self._checkpoints, self._width, self._encoding = head, checkpoints, width, encoding
        self._dense = DenseWriter(head)
        self._order = FrameOrder()
        self._serving = False
        self._lineage = Lineage()
        self._latencies: deque[int] = deque(maxlen=_REMEMBERED_LATENCIES)
        self.table = SharedTableWriter(head, width)

    @property
    def lineage(self) -> Lineage:
        """What the table contains."""
        return self._lineage

    @property
    def dense_position(self) -> StreamPosition:
        """The dense bundle in place."""
        return self._order.streams.get(stream_of(DENSE, 0), StreamPosition())

    def begin(self) -> LogPosition:
        """Starts again from the newest intact checkpoint, or from nothing; returns where the log follows.

        Raises CheckpointError where there are checkpoints, but none that can be read.
        """
        self._serving = False
        checkpoint = self._load()
        if checkpoint is None:
            self.table = SharedTableWriter(self._head, self._width)
            self._order, self._lineage = FrameOrder(), Lineage()
            return LogPosition()
        hit("replica.checkpoint-loaded")
        position = log_position(checkpoint)
        arrays = checkpoint.tables[TABLE].arrays
        values = np.asarray(arrays["values"], np.float32)
        if values.shape[1] != self._width:
            found = f"rows of {values.shape[1]} columns, the settings say {self._width}"
            raise CheckpointError(f"checkpoint {checkpoint.number} is of another model: {found}; {_ONE_MODEL}")
        self.table = SharedTableWriter(self._head, self._width, rows=len(values))
        spaces = (np.asarray(arrays["marks"], np.uint64) & _SPACE_MASK).astype(np.uint16)
        self.table.apply(np.asarray(arrays["keys"], np.uint64), spaces, as_sent(values, self._encoding))
        hit("replica.table-filled")
        self._order = FrameOrder(position)
        at = position.of(stream_of(TABLE, 0))
        learned = checkpoint.offsets.get(EXAMPLES.name, {})
        self._lineage = Lineage(at.epoch, at.sequence, dict(learned))
        dense = position.of(stream_of(DENSE, 0))
        self._dense.swap(dense.sequence, dense.epoch, {TABLE: at.sequence}, dense_parameters(checkpoint))
        logger.info("checkpoint %d with %d rows at %s", checkpoint.number, len(values), at)
        return position

    def publish(self) -> None:
        """Makes the table what readers see."""
        # In this order no reader is ever told more than the rows hold, also where the new history is the shorter one.
        self._head.write_lineage(Lineage())
        hit("replica.lineage-cleared")
        self.table.publish()
        hit("replica.table-published")
        self._head.write_lineage(self._lineage)
        hit("replica.lineage-published")
        self._serving = True

    def apply(self, frame: Frame) -> Keys:
        """Applies the next frame and returns the keys u64 [n] of rows that changed. Raises Gap, BadFrame."""
        verdict = self._order.judge(frame)
        if verdict is Verdict.SKIP:
            return np.empty(0, np.uint64)
        if frame.kind is FrameKind.DENSE:
            self._dense.swap(frame.sequence, frame.epoch, frame.trained_with, tensors_of(frame))
            return np.empty(0, np.uint64)
        if frame.table != TABLE:
            # The beginning of an epoch of the dense bundles: the bundle itself follows.
            return np.empty(0, np.uint64)
        changed = np.empty(0, np.uint64)
        if verdict is Verdict.APPLY:
            rows = rows_of(frame)
            if frame.dim != self.table.width:
                found = f"rows have {frame.dim} columns, the table has {self.table.width}"
                raise Gap(f"the trainer's is another model: {found}; {_ONE_MODEL}")
            self.table.remove(rows.tombstones)
            hit("replica.rows-removed")
            hit("replica.row-odd", lambda: self.table.tear(rows.keys))
            self.table.apply(rows.keys, rows.spaces, rows.values)
            hit("replica.rows-applied")
            changed = np.concatenate([rows.keys, rows.tombstones])
        now_ms = time.time_ns() // 1_000_000
        self._lineage = Lineage(frame.epoch, frame.sequence, frame.learned, frame.created_at, now_ms)
        if self._serving:
            self._head.write_lineage(self._lineage)
            hit("replica.frame-told")
            self._latencies.append(now_ms - frame.created_at)
        return changed

    def latencies_ms(self) -> tuple[float, float]:
        """p50 and p99 (ms) from a frame's making to its being readable, of the last 2,000 frames; 0 before any."""
        if not self._latencies:
            return 0.0, 0.0
        p50, p99 = np.percentile(self._latencies, [50, 99])
        return float(p50), float(p99)

    def _load(self) -> Checkpoint | None:
        try:
            # Without a trainer so far there is no folder, and it is the trainer's to make.
            if not self._checkpoints or not storage_at(self._checkpoints).exists():
                return None
            return CheckpointStore(self._checkpoints).load_newest()
        except OSError as error:
            raise CheckpointError(f"{self._checkpoints}: {error}") from error
