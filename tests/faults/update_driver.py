"""A trainer in miniature on the real table, publisher and checkpoint store, to be killed at any moment.

Step n changes rows, removes some and sets the marker's row to n + 1, all as a function of n alone: however often it is
killed, after N steps the table must be byte for byte what an undisturbed run makes.

`main(bootstrap, folder)` writes FOLDER/step.json after every step; where FOLDER/quiesce.json exists, it stops at the
step that the file names, publishes all, and writes FOLDER/result.json.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from kafka.errors import KafkaError

from infra.local.state import read_json, write_json
from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.checkpoint.store import CheckpointSettings, CheckpointStore
from online_learning.state import CheckpointMeta, Counters, TrainerState, dense_arrays, log_position
from online_learning.table.settings import (
    InitializerKind,
    InitializerSettings,
    OptimizerKind,
    OptimizerSettings,
    TableSettings,
)
from online_learning.table.table import Table
from online_learning.updates.position import TABLE, LogPosition
from online_learning.updates.publisher import Publisher
from online_learning.watching.progressive import ProgressiveState
from streams.admin import cut
from streams.kafka import BrokerAway
from streams.settings import KafkaSettings
from streams.topics import EXAMPLES, UPDATES

DIM: Final = 17
KEYS: Final = 3_000
MARKER: Final = 1_000_000
_CHECKPOINT_EVERY: Final = 40

SETTINGS: Final = TableSettings(
    dim=DIM,
    optimizer=OptimizerSettings(kind=OptimizerKind.SGD, learning_rate=1.0),
    initializer=InitializerSettings(kind=InitializerKind.ZEROS),
)


class Result(msgspec.Struct, frozen=True):
    """What the driver ended with."""

    step: int
    digest: int
    rows: int
    epoch: int
    sequence: int


def step(table: Table, n: int, version: int) -> None:
    """Step n on the table."""
    rng = np.random.default_rng(n)
    named = rng.integers(1, KEYS, 40).astype(np.uint64)
    slots = table.find_or_insert(named, np.ones(40, np.uint16), n, version)
    table.apply_gradients(slots, rng.normal(size=(40, DIM)).astype(np.float32), version)
    if n % 3 == 0:
        table.remove(np.unique(rng.integers(1, KEYS, 10)).astype(np.uint64), n, version)
    marker = table.find_or_insert(np.array([MARKER], np.uint64), np.ones(1, np.uint16), n, version)
    table.apply_gradients(marker, table.gather(marker) - np.float32(n + 1), version)


def reference(steps: int) -> Table:
    """The table after `steps` undisturbed steps."""
    table = Table(SETTINGS)
    for n in range(steps):
        step(table, n, n + 1)
    return table


def bias(n: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """The dense bundle after n steps."""
    return {"bias": np.array([n], np.float32)}


def _behind_oldest(store: CheckpointStore) -> dict[tuple[str, int], int]:
    """Up to where no kept checkpoint needs the log."""
    oldest = store.oldest()
    assert oldest is not None
    meta = msgspec.json.decode(oldest.meta, type=CheckpointMeta)
    return {(UPDATES.name, partition): offset for partition, offset in meta.position.offsets.items()}


def main(bootstrap: str, folder: Path) -> None:
    store = CheckpointStore(folder / "checkpoints", CheckpointSettings(keep=2, max_increments=3))
    checkpoint = store.load_newest()
    n, table, position = 0, Table(SETTINGS), LogPosition()
    if checkpoint is not None:
        n = checkpoint.offsets[EXAMPLES.name][0]
        table, position = Table.restore(SETTINGS, checkpoint.tables[TABLE]), log_position(checkpoint)
    kafka = KafkaSettings(bootstrap=bootstrap)
    publisher = Publisher(kafka)
    publisher.begin_epoch(position, table, {0: n})
    while (last := read_json(folder / "quiesce.json", int)) is None or n < last:
        step(table, n, publisher.version)
        n += 1
        publisher.publish_sparse(table, {0: n})
        if n % 25 == 0:
            publisher.publish_dense(bias(n))
        if n % _CHECKPOINT_EVERY == 0:
            publisher.poll()
            arrays = dense_arrays(bias(n), TrainerState(b"", {}, ProgressiveState(), []))
            snapshot = table.snapshot(whole=store.wants_whole())
            meta = CheckpointMeta(publisher.position, Counters(), (), ())
            store.save(
                Checkpoint(
                    tables={TABLE: snapshot},
                    dense=arrays,
                    offsets={EXAMPLES.name: {0: n}},
                    epoch=publisher.epoch,
                    meta=msgspec.json.encode(meta),
                )
            )
            # What a dying broker does not delete now goes with the next cut.
            with suppress(KafkaError, BrokerAway):
                cut(kafka, _behind_oldest(store))
        write_json(folder / "step.json", n)
        time.sleep(0.004)
    while table.touched or publisher.busy:
        publisher.publish_sparse(table, {0: n})
        publisher.flush(30.0)
    publisher.publish_dense(bias(n))
    publisher.flush(30.0)
    result = Result(n, table.digest(), len(table), publisher.epoch, publisher.sequences[TABLE])
    write_json(folder / "result.json", result)
    publisher.close()
