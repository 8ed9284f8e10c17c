"""Publishes what the trainer changed: newest rows of touched keys, dense bundles, and its taking over.

A key stays touched until the broker has acknowledged its newest row. One sparse batch is under way at a time, of
bounded size: while Kafka is slow, changes merge in the table (a key goes out once, in its newest state), so memory
stays bounded and nothing is dropped.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from online_learning.table.table import Export, Table
from online_learning.table.version import MAX_SEQUENCE, pack_version
from online_learning.updates.frames import RowEncoding, Rows, dense_frame, epoch_frame, sparse_frames
from online_learning.updates.log_writer import Acknowledged, LogWriter, PublishFailed
from online_learning.updates.position import DENSE, TABLE, LogPosition, StreamPosition, stream_of
from online_learning.updates.repair import LogCut, frames_behind
from streams.failpoints import hit
from streams.records import Frame
from streams.settings import KafkaSettings

# What may be in memory for Kafka at once; also about what one transaction can commit in a second on a laptop.
MAX_BATCH_BYTES: Final = 8 * 2**20


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Publisher:
    """The only writer of one table shard's stream and of the dense bundles beside it.

    Single-threaded: call it from the trainer's loop. `begin_epoch` comes first. Every method raises Fenced where
    another trainer has taken over, and PublishFailed where the log cannot be written: the trainer must stop then.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        table: str = TABLE,
        shard: int = 0,
        encoding: RowEncoding = "f32",
        max_batch_bytes: int = MAX_BATCH_BYTES,
        now_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._settings = settings
        self._table, self._shard, self._encoding = table, shard, encoding
        self._sparse, self._dense = stream_of(table, shard), stream_of(DENSE, shard)
        self._max_batch_bytes = max_batch_bytes
        self._now_ms = now_ms
        self._writer = LogWriter(settings, f"freshet-updates-{table}-{shard}")
        self._epoch = 0
        self._sequence: dict[str, int] = {}
        self._acknowledged = LogPosition()
        self._learned: dict[int, int] = {}
        self._in_flight: tuple[int, Table, NDArray[np.uint64], int] | None = None
        self.begun_at = 0
        self._dense_in_flight = 0
        self.last_ack_ms = 0.0
        self.detached = False

    @property
    def epoch(self) -> int:
        """The epoch that `begin_epoch` took, 0 before."""
        return self._epoch

    @property
    def stream(self) -> str:
        """The stream of sparse frames that this publisher writes."""
        return self._sparse

    @property
    def version(self) -> int:
        """The version to stamp changes of rows with until the next `publish_sparse`: (epoch, next sequence), packed."""
        return pack_version(self._epoch, self._sequence[self._sparse] + 1)

    @property
    def _sparse_version(self) -> int:
        # Changes after the last frame's making carry a version above this one, and so stay touched.
        return pack_version(self._epoch, self._sequence[self._sparse])

    @property
    def sequences(self) -> dict[str, int]:
        """The last sequence given out per table (`trained_with` of a dense bundle)."""
        return {self._table: self._sequence.get(self._sparse, 0)}

    @property
    def position(self) -> LogPosition:
        """What readers can see of this publisher, as far as `poll` has heard: goes into the checkpoint."""
        return self._acknowledged

    @property
    def busy(self) -> bool:
        """Whether a sparse batch is still under way."""
        return self._in_flight is not None

    def begin_epoch(
        self,
        restored: LogPosition,
        table: Table,
        learned: Mapping[int, int],
        timeout_s: float = 60.0,
        *,
        detached: bool = False,
    ) -> int:
        """Takes the log over from the state of a checkpoint and returns the new epoch.

        1. Fences every older trainer, so that the log ends here for it.
        2. Reads the frames behind `restored` (the checkpoint's position; LogPosition() without a checkpoint): their
           rows are of a history that this table does not know.
        3. Takes the epoch above all that the checkpoint and the log have seen.
        4. Publishes, in one transaction, that epoch's beginning and the rows of those keys as they are in `table`
           (tombstones where it has none), with all that the checkpoint held unpublished.

        `learned` are the checkpoint's offsets (next offset per examples partition). Raises LogCut where the log no
        longer reaches back to the checkpoint, PublishFailed after `timeout_s`.

        `detached`: the table's rows never were on this log (a backfill). Nothing is repaired then: every replica is
        made to start again, from a checkpoint that this epoch has written. It is so, too, and `self.detached` says it,
        where nothing was restored and the log was cut: nobody can tell then what replicas hold.
        """
        self._writer.fence(timeout_s)
        hit("trainer.fenced")
        try:
            behind = frames_behind(self._settings, None if detached else restored, self._sparse, timeout_s)
        except LogCut:
            if restored.offsets:
                raise
            # Nothing was restored (the checkpoints are lost): nothing here is of this log's history either.
            detached = True
            behind = frames_behind(self._settings, None, self._sparse, timeout_s)
        self.detached = detached
        hit("trainer.repair-read")
        self._epoch = max(restored.epoch, behind.newest_epoch) + 1
        if detached:
            # A position that nobody has reached: whoever reads the epoch's frame finds that frames are missing.
            unreached = StreamPosition(self._epoch - 1, MAX_SEQUENCE)
            restored = LogPosition({self._sparse: unreached, self._dense: unreached})
        self._learned = dict(learned)
        table.republish(behind.keys, pack_version(self._epoch, 1))
        hit("trainer.repair-touched")
        self.begun_at = self._now_ms()
        self._acknowledged = LogPosition(dict(restored.streams), behind.ends, dict(restored.begun_at))
        keys = table.take_touched()
        batch = self._writer.submit(lambda: self._beginning(restored, table, keys))
        if not self._writer.wait(batch, timeout_s):
            raise PublishFailed(f"epoch {self._epoch} could not be published in {timeout_s:g} s")
        self._in_flight = (batch, table, keys, self._sparse_version)
        self.poll()
        return self._epoch

    def publish_sparse(self, table: Table, learned: Mapping[int, int]) -> bool:
        """Sends the newest rows of touched keys, if any and if no batch is under way; whether it sent.

        `learned` maps each examples partition to the next offset such that all before it are learned into `table`; it
        goes out only with the frame that completes it. Where nothing was touched but `learned` went on, an empty frame
        says so.
        """
        self.poll()
        if self._in_flight is not None:
            return False
        limit = self._most_rows(table)
        keys = table.take_touched(limit)
        complete = len(keys) < limit
        if not len(keys) and all(self._learned.get(k) == v for k, v in learned.items()):
            return False
        reached = dict(learned) if complete else self._learned
        frames = self._frames(table.export(keys), self._now_ms(), self._learned, reached)
        self._learned = reached
        self._send_sparse(frames, table, keys)
        return True

    def publish_dense(self, parameters: Mapping[str, NDArray[Any]]) -> bool:
        """Sends a bundle of dense parameters, if none is under way; whether it sent."""
        self.poll()
        if self._dense_in_flight:
            return False
        self._sequence[self._dense] += 1
        frame = dense_frame(
            parameters,
            table=DENSE,
            shard=self._shard,
            epoch=self._epoch,
            sequence=self._sequence[self._dense],
            created_at=self._now_ms(),
            trained_with=self.sequences,
            learned=self._learned,
        )
        self._dense_in_flight = self._writer.submit(lambda: [frame])
        hit("trainer.dense-sent")
        return True

    def poll(self) -> None:
        """Takes note of what the broker has acknowledged: those keys are no longer touched."""
        for done in self._writer.acknowledged():
            self._note(done)

    def flush(self, timeout_s: float) -> bool:
        """Waits until what was sent is acknowledged; False after `timeout_s`. Touched keys are not sent by it."""
        last = max(self._in_flight[0] if self._in_flight else 0, self._dense_in_flight)
        there = self._writer.wait(last, timeout_s) if last else True
        self.poll()
        return there

    def close(self, timeout_s: float = 10.0) -> None:
        """Lets what was sent finish for up to `timeout_s`."""
        self._writer.close(timeout_s)

    def _beginning(self, restored: LogPosition, table: Table, keys: NDArray[np.uint64]) -> Iterator[Frame]:
        """An epoch's first frames, made as they are sent: there may be more rows than memory should hold twice.

        What the checkpoint had learned is said with the last of its rows: some may never have been on the log.
        """
        self._sequence = {self._sparse: 0, self._dense: 0}
        learned = {} if len(keys) else self._learned
        for name in (self._table, DENSE):
            at = restored.of(stream_of(name, self._shard))
            yield epoch_frame(
                table=name,
                shard=self._shard,
                epoch=self._epoch,
                resumes_epoch=at.epoch,
                resumes=at.sequence,
                created_at=self.begun_at,
                learned=learned,
            )
        limit = self._most_rows(table)
        for start in range(0, len(keys), limit):
            reached = self._learned if start + limit >= len(keys) else learned
            yield from self._frames(table.export(keys[start : start + limit]), self.begun_at, learned, reached)

    def _most_rows(self, table: Table) -> int:
        return max(1, self._max_batch_bytes // (10 + 4 * table.dim))

    def _frames(
        self, export: Export, created_at: int, before: Mapping[int, int], learned: Mapping[int, int]
    ) -> list[Frame]:
        rows = Rows(export.keys, export.spaces, export.rows, export.tombstones)
        frames = list(
            sparse_frames(
                rows,
                table=self._table,
                shard=self._shard,
                epoch=self._epoch,
                first_sequence=self._sequence[self._sparse] + 1,
                created_at=created_at,
                encoding=self._encoding,
                learned_before=before,
                learned=learned,
            )
        )
        self._sequence[self._sparse] = frames[-1].sequence
        return frames

    def _send_sparse(self, frames: list[Frame], table: Table, keys: NDArray[np.uint64]) -> None:
        hit("trainer.frames-made")
        self._in_flight = (self._writer.submit(lambda: frames), table, keys, self._sparse_version)

    def _note(self, done: Acknowledged) -> None:
        seen: dict[str, StreamPosition] = {**self._acknowledged.streams, **done.streams}
        begun_at = {**self._acknowledged.begun_at, **dict.fromkeys(done.streams, self.begun_at)}
        self._acknowledged = LogPosition(seen, {**self._acknowledged.offsets, **done.offsets}, begun_at)
        self.last_ack_ms = done.took_ms
        if self._in_flight is not None and self._in_flight[0] == done.batch:
            _, table, keys, version = self._in_flight
            hit("trainer.keys-forgetting")
            table.confirm(keys, version)
            hit("trainer.keys-forgotten")
            self._in_flight = None
        if self._dense_in_flight == done.batch:
            self._dense_in_flight = 0
