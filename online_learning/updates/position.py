"""How far somebody is in the update log."""

from typing import Final

import msgspec

from streams.records import Frame

TABLE: Final = "sparse"
"""The table of the model's rows, by its name in frames and checkpoints."""

DENSE: Final = "dense"
"""The name under which dense bundles go."""


def stream_of(table: str, shard: int) -> str:
    """The name of the stream of frames that carries one table shard; also the key of its records."""
    return f"{table}/{shard}"


class StreamPosition(msgspec.Struct, frozen=True, array_like=True, order=True):
    """The last frame of a stream that is in: positions compare by epoch first. (0, 0): nothing yet."""

    epoch: int = 0
    sequence: int = 0


NOWHERE = StreamPosition()


class LogPosition(msgspec.Struct, frozen=True, array_like=True):
    """A place in the whole log: the last frame that is in of every stream, and where to read on.

    `offsets` maps each partition of `updates` to the next offset to read. It is a hint that spares reading: frames
    before it are all in, and of those behind it the streams say which are in already. A checkpoint carries one.
    `begun_at`: when each stream's epoch began (ms, the `created_at` of its own frame), by which a history that begins
    anew at the same number is told from this one; not told by checkpoints before it.
    """

    streams: dict[str, StreamPosition] = {}
    offsets: dict[int, int] = {}
    begun_at: dict[str, int] = {}

    @property
    def epoch(self) -> int:
        """The newest epoch of any stream, 0 where nothing was ever published."""
        return max((at.epoch for at in self.streams.values()), default=0)

    def of(self, stream: str) -> StreamPosition:
        """The last frame of `stream` that is in."""
        return self.streams.get(stream, NOWHERE)


def position_of(frame: Frame) -> StreamPosition:
    """Where a frame stands in its stream."""
    return StreamPosition(frame.epoch, frame.sequence)
