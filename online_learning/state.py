"""What the trainer keeps in a checkpoint beside the table's rows, and what a replica needs of it.

Arrays `parameters/NAME` are the network's parameters, arrays `state/NAME` (u8) are bytes that only the trainer reads;
the small meta is read by everybody. New rows are a function of seed and key, and draws of seed and number: the table's
seed and the count of draws are all the random state there is.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.predictions import Remembered
from online_learning.sampling.item_stream import ItemStreamState
from online_learning.updates.position import LogPosition
from online_learning.watching.alarms import WatchState
from online_learning.watching.calibration import CalibrationState
from online_learning.watching.progressive import ProgressiveState

_PARAMETERS: Final = "parameters/"
_STATE: Final = "state/"


class Counters(msgspec.Struct):
    """What was done since the start of the log, exactly once as the offsets count it.

    `examples`: examples read per partition, whether learned or not; `labels`: labels learned per task;
    `refused`: examples that were not learned because their gradients were not finite; `erased`: because their user had
    been erased since; `sampled`: negatives drawn for organic positives; `fake_negatives`: items that were learned as
    negatives when they were shown.
    """

    examples: dict[int, int] = {}
    learned: int = 0
    corrections: int = 0
    late_predictions: int = 0
    impressions: int = 0
    labels: dict[str, int] = {}
    refused: int = 0
    erased: int = 0
    sampled: int = 0
    fake_negatives: int = 0


class Backfilled(msgspec.Struct, frozen=True):
    """How far a backfill is: `rows` of its `files` (name and bytes of each, in order) are learned, and the topic up to
    the checkpoint's offsets; it is `done` when those have reached `ends` (per partition, fixed when it first got
    there)."""

    files: list[tuple[str, int]] = []
    rows: int = 0
    ends: dict[int, int] = {}
    done: bool = False


class CheckpointMeta(msgspec.Struct, frozen=True):
    """`position`: what readers of the update log could see of this state. `backfill`: where it comes from one, of which
    the update log knows nothing. `values`: which of the tasks are value tasks. `origins`: what the fields are made of,
    not told by checkpoints before it."""

    position: LogPosition
    counters: Counters
    tasks: tuple[str, ...]
    fields: tuple[str, ...]
    backfill: Backfilled | None = None
    values: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class TrainerState(msgspec.Struct, frozen=True):
    """What only the trainer reads: `baselines` by name, the moments of the optimizers (`towers`: of the towers), open
    windows, predictions, the `items` that negatives are drawn from, and the newest event time (ms) learned."""

    optimizer: bytes
    baselines: dict[str, bytes]
    validation: ProgressiveState
    predictions: list[tuple[str, Remembered]]
    drift: list[WatchState] = []
    calibration: CalibrationState = CalibrationState()
    towers: bytes = b""
    items: ItemStreamState = ItemStreamState()
    clock_ms: int = 0


def dense_arrays(parameters: Mapping[str, NDArray[np.float32]], state: TrainerState) -> dict[str, NDArray[Any]]:
    """The arrays `Checkpoint.dense` of parameters and state."""
    named: dict[str, NDArray[Any]] = {f"{_PARAMETERS}{name}": value for name, value in parameters.items()}
    named[f"{_STATE}trainer"] = np.frombuffer(msgspec.msgpack.encode(state), dtype=np.uint8)
    return named


def dense_parameters(checkpoint: Checkpoint) -> dict[str, NDArray[np.float32]]:
    """The network's parameters by the names that the update log uses too."""
    kept = {name.removeprefix(_PARAMETERS): a for name, a in checkpoint.dense.items() if name.startswith(_PARAMETERS)}
    return {name: np.asarray(value, dtype=np.float32) for name, value in kept.items()}


def trainer_state(checkpoint: Checkpoint) -> TrainerState:
    """What the trainer kept for itself."""
    return msgspec.msgpack.decode(checkpoint.dense[f"{_STATE}trainer"].tobytes(), type=TrainerState)


def meta_of(checkpoint: Checkpoint) -> CheckpointMeta:
    """The meta of a checkpoint that the trainer wrote."""
    return msgspec.json.decode(checkpoint.meta, type=CheckpointMeta)


def log_position(checkpoint: Checkpoint) -> LogPosition:
    """From where on the update log follows this checkpoint."""
    return meta_of(checkpoint).position
