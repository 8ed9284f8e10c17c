"""What a restarted trainer must make good: the keys of frames that its checkpoint does not know."""

import time
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from kafka import TopicPartition
from kafka.errors import KafkaError
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import ANEW
from online_learning.updates.log_writer import PublishFailed
from online_learning.updates.position import LogPosition, position_of, stream_of
from streams import kafka
from streams.records import Frame
from streams.settings import KafkaSettings
from streams.topics import UPDATES

# Keys are merged when this many have come together: a key that changes with every frame is kept once.
_MERGE_AT: Final = 1 << 20


class LogCut(PublishFailed):
    """The log no longer reaches back to the checkpoint, so nobody knows what replicas hold beyond it."""


class Behind(msgspec.Struct, frozen=True):
    """The frames behind a checkpoint: `keys` u64 [n], distinct, of their rows and tombstones; the newest epoch of any
    frame (0: no frame); and the `ends` of the log per partition."""

    keys: NDArray[np.uint64]
    newest_epoch: int
    ends: dict[int, int]


def frames_behind(settings: KafkaSettings, restored: LogPosition | None, stream: str, timeout_s: float) -> Behind:
    """Reads `updates` from a checkpoint's position to its end; the log must have no other writer by now.

    None: there is nothing to repair, no keys are collected, and the log may begin anywhere. Raises LogCut where the log
    begins behind the checkpoint's position; PublishFailed after `timeout_s`.
    """
    keys: list[NDArray[np.uint64]] = []
    held = newest = 0
    reader = LogTail(settings, restored, timeout_s)
    for frame in reader.frames():
        newest = max(newest, frame.epoch)
        if restored is None:
            continue
        if stream_of(frame.table, frame.shard) != stream or position_of(frame) <= restored.of(stream):
            continue
        keys += [np.frombuffer(frame.keys, "<u8"), np.frombuffer(frame.tombstones, "<u8")]
        held += len(keys[-1]) + len(keys[-2])
        if held > _MERGE_AT:
            keys = [np.unique(np.concatenate(keys))]
            held = len(keys[0])
    merged = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.uint64)
    return Behind(merged.astype(np.uint64, copy=False), newest, reader.ends)


class LogTail:
    """The frames of `updates` from a position (None: its beginning) to the end that the log had at the start."""

    def __init__(self, settings: KafkaSettings, start: LogPosition | None, timeout_s: float) -> None:
        self._settings, self._start, self._timeout_s = settings, start, timeout_s
        self.ends: dict[int, int] = {}

    def frames(self) -> Iterator[Frame]:
        """All frames there, partition by partition as Kafka hands them out. Raises LogCut, PublishFailed."""
        consumer = kafka.consumer(self._settings, client_id="freshet-update-log", wait_s=self._timeout_s)
        try:
            partitions = kafka.assign(consumer, [UPDATES.name], wait_s=self._timeout_s)
            begins = kafka.begin_offsets(consumer, partitions, self._timeout_s)
            ends = kafka.end_offsets(consumer, partitions, self._timeout_s)
            self.ends = {p.partition: end for p, end in ends.items()}
            for p in partitions:
                consumer.seek(p, self._first(p, begins[p], ends[p]))
            deadline = time.monotonic() + self._timeout_s
            while any(consumer.position(p) < ends[p] for p in partitions):
                for records in consumer.poll(timeout_ms=100).values():
                    for record in records:
                        yield UPDATES.codec.decode(record.value)
                if time.monotonic() > deadline:
                    raise PublishFailed(f"`updates` could not be read to its end in {self._timeout_s:g} s")
        except KafkaError as error:
            raise PublishFailed(f"`updates` could not be read: {error}") from error
        finally:
            consumer.close()

    def _first(self, partition: TopicPartition, begins: int, ends: int) -> int:
        if self._start is None:
            return begins
        wanted = self._start.offsets.get(partition.partition)
        if wanted is None or wanted > ends:
            # Without a checkpoint everything counts; and an offset beyond the end is of another log.
            wanted = 0 if wanted is None else begins
        if wanted < begins:
            raise LogCut(
                f"`updates` partition {partition.partition} begins at {begins}, the checkpoint needs it from {wanted}: "
                f"delete the topic and start everything again, or {ANEW}"
            )
        return max(wanted, begins)
