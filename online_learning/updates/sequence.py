"""The reader's rules of the update log, pure: of each frame, in the log's order, whether it is applied."""

import enum
from collections.abc import Mapping

from online_learning.updates.position import NOWHERE, LogPosition, StreamPosition, position_of, stream_of
from streams.records import Frame, FrameKind


class Gap(Exception):
    """A frame is missing, or the state was built on a history that the trainer threw away.

    Nothing may be applied on top of it: the reader starts again from a checkpoint.
    """


class Verdict(enum.Enum):
    """What to do with a frame: `apply` its rows; `skip` it (known, or of a fenced epoch); `epoch`: a trainer took over
    (what was learned goes back to what the frame says; the rows that died with the old epoch follow in its frames)."""

    APPLY = "apply"
    SKIP = "skip"
    EPOCH = "epoch"


class FrameOrder:
    """Judges frames of all streams; `built_on` is the position of the checkpoint that the state started from.

    Within a stream and epoch sequences are dense from 1, after the epoch's own frame with sequence 0. Frames of an
    older epoch than the stream's are of a fenced trainer. An epoch frame is taken only where the state contains all
    that the new trainer's checkpoint contained (else frames are missing), and where the checkpoint that the state was
    built on is not newer than that (else it holds rows that were never on the log and so are not repaired by it).

    Epochs of one history only grow. An epoch that began after ours, and has no greater number, is of a trainer that
    knew neither its predecessors' checkpoints nor their log: nothing here is of its history.
    """

    def __init__(self, built_on: LogPosition | None = None) -> None:
        start = built_on or LogPosition()
        self._built_on = dict(start.streams)
        self._at = dict(start.streams)
        self._begun_at = dict(start.begun_at)

    @property
    def streams(self) -> Mapping[str, StreamPosition]:
        """The last frame taken of every stream."""
        return self._at

    def judge(self, frame: Frame) -> Verdict:
        """Says what to do with the next frame of the log and counts it as done; raises Gap."""
        stream = stream_of(frame.table, frame.shard)
        at, here = self._at.get(stream, NOWHERE), position_of(frame)
        if frame.kind is FrameKind.EPOCH:
            if here.epoch <= at.epoch:
                self._check_history(stream, at, frame)
                return Verdict.SKIP
            self._check_takeover(stream, at, StreamPosition(frame.resumes_epoch, frame.resumes), here)
            self._at[stream], self._begun_at[stream] = here, frame.created_at
            return Verdict.EPOCH
        if here.epoch < at.epoch:
            return Verdict.SKIP
        if here.epoch > at.epoch:
            raise Gap(f"{stream}: frame {here} without the frame that begins its epoch, after {at}")
        if here.sequence <= at.sequence:
            return Verdict.SKIP
        if here.sequence > at.sequence + 1:
            raise Gap(f"{stream}: frame {here} follows {at}")
        self._at[stream] = here
        return Verdict.APPLY

    def _check_history(self, stream: str, at: StreamPosition, frame: Frame) -> None:
        begun_at = self._begun_at.get(stream)
        # Where it is not known, nothing can be told: a checkpoint that does not say it would be taken again and again.
        if begun_at is not None and frame.created_at > begun_at:
            raise Gap(
                f"{stream}: epoch {frame.epoch} began {frame.created_at - begun_at} ms after the epoch of {at}: "
                "the log begins anew"
            )

    def _check_takeover(self, stream: str, at: StreamPosition, resumes: StreamPosition, here: StreamPosition) -> None:
        if at < resumes:
            raise Gap(f"{stream}: epoch {here.epoch} resumes after {resumes}, but only {at} is here")
        built_on = self._built_on.get(stream, NOWHERE)
        if built_on > resumes:
            raise Gap(f"{stream}: epoch {here.epoch} resumes after {resumes}, but the state was built on {built_on}")
