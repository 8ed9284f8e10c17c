"""Keeps the trainer: saves checkpoints, restores the newest, and cuts topics behind the oldest."""

import logging
from typing import Protocol

import msgspec

from online_learning.checkpoint.checkpoint import ANEW, Checkpoint, CheckpointError, Manifest
from online_learning.checkpoint.store import CheckpointSettings, CheckpointStore
from online_learning.cutter import Cutter
from online_learning.inputs import Positions
from online_learning.learner import TABLE
from online_learning.learners import Learners
from online_learning.models.parameters import ShapeMismatch
from online_learning.settings import LearningSettings
from online_learning.state import Backfilled, CheckpointMeta, dense_arrays, dense_parameters, meta_of, trainer_state
from online_learning.table.export import TableFull
from online_learning.table.table import Table
from online_learning.table.version import pack_version
from online_learning.updates.position import LogPosition
from streams.failpoints import hit
from streams.topics import EXAMPLES

logger = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True):
    """Where a restored trainer goes on: `offsets` per topic and partition, and the place in the update log; `backfill`
    where it comes from one, of which the update log knows nothing."""

    offsets: Positions
    position: LogPosition
    backfill: Backfilled | None = None

    @property
    def backfilled(self) -> bool:
        """Whether the state is that of a backfill."""
        return self.backfill is not None


class Published(Protocol):
    """What a checkpoint asks of the publisher: `epoch`, and its acknowledged `position` once it was polled."""

    @property
    def epoch(self) -> int: ...

    @property
    def position(self) -> LogPosition: ...

    def poll(self) -> None: ...


class Keeper:
    """The trainer's checkpoints in one place, a path or URL.

    `failure`: why the last save failed, "" where it did not.
    """

    def __init__(self, settings: LearningSettings, location: str) -> None:
        self._settings = settings
        self._store = CheckpointStore(location, CheckpointSettings(keep=settings.trainer.checkpoints_kept))
        self._cutter = Cutter(settings.kafka, settings.trainer.examples_kept_s)
        self._saved: Positions = {}
        self._force_whole = True
        self.failure = ""

    @property
    def number(self) -> int:
        """The number of the newest durable checkpoint, 0 before the first."""
        return self._store.number

    def restore(self, learners: Learners, *, resume_backfill: bool = False) -> Kept:
        """Brings the learners to the newest intact checkpoint, if there is one.

        Raises CheckpointError where there are checkpoints but none that fits: none is intact, the model's fields, tasks
        or shape have changed since, or there are more rows than there may be or removals than memory holds. Starting
        anew must be somebody's decision.
        """
        checkpoint = self._store.load_newest()
        if checkpoint is None:
            return Kept({}, LogPosition())
        meta = meta_of(checkpoint)
        if meta.backfill is not None and not meta.backfill.done and not resume_backfill:
            raise CheckpointError(
                f"checkpoint {checkpoint.number} is of a backfill that has not ended: run `freshet backfill` again"
            )
        fields, origins = self._fields()
        for what, there, wanted in (
            ("fields", meta.fields, fields),
            ("fields", meta.origins or origins, origins),
            ("tasks", meta.tasks, learners.tasks),
            ("value tasks", meta.values, learners.value_tasks),
        ):
            if there != wanted:
                raise CheckpointError(
                    f"checkpoint {checkpoint.number} is of a model with the {what} {there}, the settings say {wanted}: "
                    f"restore those, or {ANEW}"
                )
        state = trainer_state(checkpoint)
        try:
            learners.online.restore(
                checkpoint.tables[TABLE], dense_parameters(checkpoint), state.optimizer, state.towers
            )
        except (ShapeMismatch, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {checkpoint.number} is of another model: {error}: restore its settings, or {ANEW}"
            ) from error
        except TableFull as error:
            raise CheckpointError(
                f"checkpoint {checkpoint.number} does not fit: {error}: give `learning.rows` more room, or {ANEW}"
            ) from error
        learners.restore(state, meta.counters)
        self._saved = checkpoint.offsets
        logger.info("restored checkpoint %d", checkpoint.number)
        return Kept(checkpoint.offsets, meta.position, meta.backfill)

    def save(
        self,
        learners: Learners,
        publisher: Published,
        offsets: Positions,
        *,
        wait: bool = False,
        backfill: Backfilled | None = None,
    ) -> None:
        """Saves this moment in the background (or, with `wait`, at once), where anything was read since the last.

        While a save runs, another one is not begun: a slow place must not hold up the learning. A save that fails is
        logged and the next one is whole: learning goes on, and the older checkpoints are intact.
        """
        if self._store.saving and not wait:
            return
        self._settle()
        if offsets == self._saved and not wait:
            return
        try:
            whole = self._force_whole or self._store.wants_whole()
            publisher.poll()
            position = publisher.position
            fields, origins = self._fields()
            meta = CheckpointMeta(
                position=position,
                counters=learners.counters,
                tasks=learners.tasks,
                fields=fields,
                backfill=backfill,
                values=learners.value_tasks,
                origins=origins,
            )
            checkpoint = Checkpoint(
                tables={TABLE: learners.online.table.snapshot(whole=whole)},
                dense=dense_arrays(learners.online.dense_parameters(), learners.state()),
                offsets=offsets,
                epoch=publisher.epoch,
                sequence=position.of(f"{TABLE}/0").sequence,
                meta=msgspec.json.encode(meta),
            )
            hit("trainer.checkpoint-snapped")
            if wait:
                self._store.save(checkpoint)
                self.failure = ""
            else:
                self._store.save_in_background(checkpoint)
            self._force_whole, self._saved = False, offsets
        except (CheckpointError, OSError) as error:
            self._failed(error)

    def cut(self, table: Table) -> None:
        """Begins to delete the records of `examples` and `updates` that no kept checkpoint needs any more, and lets the
        table forget the removals that every one of them contains."""
        try:
            oldest = self._store.oldest()
        except OSError as error:
            logger.warning("old records were not deleted: %s", error)
            return
        if oldest is None:
            return
        table.forget_tombstones(pack_version(oldest.epoch, oldest.sequence))
        self._cutter.begin(_meta(oldest).position.offsets, oldest.offsets.get(EXAMPLES.name, {}))

    def close(self) -> None:
        """Waits for a save that still runs."""
        self._cutter.close()
        self._settle()

    def _fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the fields, and what they are made of."""
        fields = self._settings.model.fields
        return tuple(field.name for field in fields), tuple(field.origin for field in fields)

    def _settle(self) -> None:
        """Waits for a save that still runs, and takes note of how it ended."""
        try:
            self._store.wait()
        except (CheckpointError, OSError) as error:
            self._failed(error)
        else:
            if self._store.newest is not None:
                self.failure = ""

    def _failed(self, error: Exception) -> None:
        # As if nothing had been saved, so that the next save tries although nothing new was read.
        self._force_whole, self._saved, self.failure = True, {}, str(error)
        logger.error("checkpoint failed: %s", error)


def _meta(manifest: Manifest) -> CheckpointMeta:
    return msgspec.json.decode(manifest.meta, type=CheckpointMeta)
