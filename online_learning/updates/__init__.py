"""The update log: what the trainer changed, as frames on the topic `updates` that replicas apply in order."""

from online_learning.updates.frames import Rows, dense_frame, rows_of, sparse_frames, tensors_of
from online_learning.updates.position import LogPosition, StreamPosition, stream_of
from online_learning.updates.sequence import FrameOrder, Gap, Verdict

__all__ = [
    "FrameOrder",
    "Gap",
    "LogPosition",
    "Rows",
    "StreamPosition",
    "Verdict",
    "dense_frame",
    "rows_of",
    "sparse_frames",
    "stream_of",
    "tensors_of",
]
