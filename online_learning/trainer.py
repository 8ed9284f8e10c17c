"""The training loop: read, predict, learn, publish, keep. One thread, one pass; `Trainer.step` is all of it.

A checkpoint is one moment of everything: rows, parameters, moments, baselines, windows, predictions and the offsets of
what they came from. So a trainer that is killed goes on from its newest checkpoint as if nothing had been, but that it
takes a new epoch of the update log and publishes again what replicas may hold of the history that died with it.
"""

import logging
import threading
import time
from typing import Final

import torch

from online_learning.catalogue import Catalogue
from online_learning.feed import Feed
from online_learning.keeper import Keeper
from online_learning.learners import Learners
from online_learning.reporter import Reporter
from online_learning.reporting import health_values
from online_learning.settings import LearningSettings
from online_learning.sweep import Sweep
from online_learning.updates.publisher import Publisher
from online_learning.updates.repair import LogCut
from online_learning.updates.takeover import successor_obeyed
from streams import kafka
from streams.dead_letters import DeadLetters
from streams.failpoints import hit
from streams.health import Health, Value

logger = logging.getLogger(__name__)

# Users, items and erasures are few: asking Kafka for them before every batch cost as much as decoding the examples.
_CATALOGUE_INTERVAL_S: Final = 0.2
# Impressions are there long before their examples, and many are learned at once for little more than one; one whose
# examples come sooner is predicted with them.
_AHEAD_INTERVAL_S: Final = 0.1
# What waits for the frame before it to arrive is to be sent as soon as that has.
_URGENT_MS: Final = 2.0
_STOP_TIMEOUT_S: Final = 10.0
# What was said on other topics arrives within milliseconds, where there is a broker.
_ARRIVAL_TIMEOUT_S: Final = 2.0


def run(settings: LearningSettings, stop: threading.Event, health: Health) -> None:
    """Trains until `stop` is set; the first health report says that it is ready.

    Raises what only a restart can mend: CheckpointError, PublishFailed; and Superseded where another trainer took over.
    """
    # The batches are small: more threads would cost more than they bring, and the cores belong to others too.
    torch.set_num_threads(1)
    try:
        trainer = _begun(settings, stop, health)
    except kafka.Stopped:
        return
    try:
        with successor_obeyed(trainer.publisher, settings.kafka, stop):
            while not stop.is_set():
                trainer.step()
            trainer.finish()
    finally:
        trainer.close()


def _begun(settings: LearningSettings, stop: threading.Event, health: Health) -> "Trainer":
    try:
        return Trainer(settings, stop, health)
    except LogCut as error:
        # An older trainer was at work until this one fenced it: it saved a checkpoint after this one had read its own,
        # and cut the log behind that. Now nobody does.
        logger.warning("%s: once more, from the newest checkpoint", error)
        return Trainer(settings, stop, health)


class Trainer:
    """The state of one life of a trainer; `step` is one turn of the loop."""

    def __init__(self, settings: LearningSettings, stop: threading.Event, health: Health) -> None:
        self._settings = settings
        self._catalogue = Catalogue()
        self._learners = Learners(settings, self._catalogue)
        self._keeper = Keeper(settings, settings.trainer.checkpoint_dir)
        kept = self._keeper.restore(self._learners)
        hit("trainer.restored")
        self._producer = kafka.producer(settings.kafka, client_id="freshet-trainer", wait_s=300.0, stop=stop)
        dead_letters = DeadLetters(self._producer)
        self._feed = Feed(settings, self._learners, self._catalogue, kept.offsets, dead_letters, stop)
        self.publisher = Publisher(settings.kafka, encoding=settings.trainer.row_encoding)
        try:
            with successor_obeyed(self.publisher, settings.kafka, stop):
                self._epoch = self.publisher.begin_epoch(
                    kept.position, self._learners.online.table, self._feed.learned, detached=kept.backfilled
                )
        except LogCut:
            self.close()
            raise
        logger.info("epoch %d begun, learning from %s on", self._epoch, self._feed.learned)
        hit("trainer.epoch-begun")
        self._catalogue_due = self._ahead_due = float("-inf")
        self._reporter = Reporter(settings, self._learners, self._producer, health, self._epoch, self._figures)
        # Before anything is kept: a checkpoint says how far the catalogue is read.
        self._erase()
        if self.publisher.detached:
            # Of these rows nothing is on the log: replicas can begin from the first checkpoint of this epoch on.
            self._keeper.save(self._learners, self.publisher, self._feed.positions, wait=True)
        now = time.monotonic()
        self._sweep = Sweep(settings.rows, self._learners)
        self._sparse_due = self._dense_due = now
        self._checkpoint_due = now + settings.trainer.checkpoint_interval_s
        self._dense_changed = True
        self._learned_something = self._urgent = False

    def step(self) -> None:
        """Reads what is there, up to one batch; predicts, learns, publishes and keeps what is due."""
        self._erase()
        if not self._learned_something:
            self._see_ahead()
        wait_ms = _URGENT_MS if self._urgent else self._settings.trainer.poll_interval_ms
        examples = self._feed.next(0.0 if self._learned_something else wait_ms)
        self._learned_something = examples is not None
        if examples is not None:
            self._urgent |= self._learners.learn(examples, _now_ms(), self.publisher.version)
            self._dense_changed = True
            hit("trainer.learned")
        self._sweep.run(time.monotonic(), self.publisher.version)
        self._publish()
        self._reporter.tell()
        if self._learners.waiting:
            # Behind what actions taught, for which somebody may be waiting.
            self._dense_changed |= self._learners.learn_rest(self.publisher.version)
        self._keep()

    def finish(self) -> None:
        """Keeps and publishes the last state, so that a restart has nothing to repeat."""
        self._reporter.tell_all()
        self.publisher.flush(_STOP_TIMEOUT_S)
        self.publisher.publish_sparse(self._learners.online.table, self._feed.learned)
        self.publisher.publish_dense(self._learners.online.dense_parameters())
        self.publisher.flush(_STOP_TIMEOUT_S)
        if self._reporter.arrived(_STOP_TIMEOUT_S):
            self._keeper.save(self._learners, self.publisher, self._feed.positions, wait=True)
        self._reporter.tell_health()

    def close(self) -> None:
        """Ends connections and threads; what is not kept is lost and will be repeated."""
        self._feed.close()
        self.publisher.close(_STOP_TIMEOUT_S)
        self._producer.close(_STOP_TIMEOUT_S)
        self._keeper.close()

    def _erase(self) -> None:
        """Follows the catalogue where that is due, and removes the rows of users who were erased since."""
        now = time.monotonic()
        if now < self._catalogue_due:
            return
        self._catalogue_due = now + _CATALOGUE_INTERVAL_S
        for user in self._feed.follow_catalogue():
            self._learners.forget_user(user, self.publisher.version)
            hit("trainer.erased")

    def _see_ahead(self) -> None:
        now = time.monotonic()
        if now >= self._ahead_due:
            self._ahead_due = now + _AHEAD_INTERVAL_S
            self._feed.see_ahead()

    # --- publishing and keeping ------------------------------------------------------------------------------------

    def _publish(self) -> None:
        now = time.monotonic()
        # What an action taught goes as soon as nothing more is there to go with it; all the rest can wait.
        if now >= self._sparse_due or (self._urgent and not self._learned_something):
            sent = self.publisher.publish_sparse(self._learners.online.table, self._feed.learned)
            if sent:
                self._urgent = False
                self._sparse_due = now + self._settings.trainer.publish_interval_ms / 1e3
        if (
            self._dense_changed
            and now >= self._dense_due
            and self.publisher.publish_dense(self._learners.online.dense_parameters())
        ):
            self._dense_changed = False
            self._dense_due = now + self._settings.trainer.dense_interval_ms / 1e3

    def _keep(self) -> None:
        now = time.monotonic()
        if now < self._checkpoint_due:
            return
        self._checkpoint_due = now + self._settings.trainer.checkpoint_interval_s
        self._reporter.tell_open()
        if self._reporter.arrived(_ARRIVAL_TIMEOUT_S):
            self._keeper.save(self._learners, self.publisher, self._feed.positions)
        self._keeper.cut(self._learners.online.table)

    def _figures(self) -> dict[str, Value]:
        counters, table, (items, users) = self._learners.counters, self._learners.online.table, self._catalogue.sizes
        return dict(
            examples=sum(counters.examples.values()),
            learned=counters.learned,
            corrections=counters.corrections,
            impressions=counters.impressions,
            fake_negatives=counters.fake_negatives,
            late_predictions=counters.late_predictions,
            unreadable=self._feed.unreadable,
            lag=self._feed.examples.lag(),
            rows=len(table),
            **dict(zip(("evicted", "tombstones"), table.gone, strict=True)),
            **dict(zip(("unadmitted", "rows_refused"), table.turned_away, strict=True)),
            items=items,
            users=users,
            epoch=self._epoch,
            sequence=next(iter(self.publisher.sequences.values())),
            checkpoint=self._keeper.number,
            ack_ms=round(self.publisher.last_ack_ms, 2),
            **{name: round(value, 5) for name, value in self._learners.progressive.figures().items()},
            **health_values(self._learners, self._settings, _now_ms(), self._keeper.failure),
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
