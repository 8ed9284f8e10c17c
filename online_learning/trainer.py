"""The training loop: read, predict, learn, publish, keep. One thread, one pass, one page.

A checkpoint is one moment of everything: rows, parameters, moments, baselines, windows, predictions and the offsets of
what they came from. So a trainer that is killed goes on from its newest checkpoint as if nothing had been, but that it
takes a new epoch of the update log and publishes again what replicas may hold of the history that died with it.
"""

import logging
import threading
import time
from typing import Any, Final

import torch

from online_learning.catalogue import Catalogue
from online_learning.inputs import Input, Positions
from online_learning.keeper import Keeper
from online_learning.learners import Learners
from online_learning.reporting import drift_metrics, drift_text, health_values, metrics
from online_learning.settings import LearningSettings
from online_learning.updates.publisher import Publisher
from online_learning.updates.takeover import successor_obeyed
from streams import kafka
from streams.dead_letters import DeadLetters
from streams.failpoints import hit
from streams.health import Health
from streams.records import Example, Item, User
from streams.topics import EXAMPLES, IMPRESSIONS, ITEMS, METRICS, USERS, Topic

logger = logging.getLogger(__name__)

# Impressions predicted at once: small enough that examples do not wait behind them, large enough to be efficient.
_IMPRESSIONS: Final = 32
_REPORT_INTERVAL_S: Final = 0.5
_METRICS_INTERVAL_S: Final = 5.0
_STOP_TIMEOUT_S: Final = 10.0


def run(settings: LearningSettings, stop: threading.Event, health: Health) -> None:
    """Trains until `stop` is set; the first health report says that it is ready.

    Raises what only a restart can mend: CheckpointError, PublishFailed; and Superseded where another trainer took over.
    """
    # The batches are small: more threads would cost more than they bring, and the cores belong to others too.
    torch.set_num_threads(1)
    try:
        trainer = Trainer(settings, stop, health)
    except kafka.Stopped:
        return
    try:
        with successor_obeyed(trainer.publisher, settings.kafka, stop):
            while not stop.is_set():
                trainer.step()
            trainer.finish()
    finally:
        trainer.close()


class Trainer:
    """The state of one life of a trainer; `step` is one turn of the loop."""

    def __init__(self, settings: LearningSettings, stop: threading.Event, health: Health) -> None:
        self._settings, self._stop, self._health = settings, stop, health
        self._catalogue = Catalogue()
        self._learners = Learners(settings, self._catalogue)
        self._keeper = Keeper(settings, settings.trainer.checkpoint_dir)
        kept = self._keeper.restore(self._learners)
        hit("trainer.restored")
        self._producer = kafka.producer(settings.kafka, client_id="freshet-trainer", wait_s=300.0, stop=stop)
        self._erased_before = kept.offsets.get(USERS.name, {})
        self._erased: list[str] = []
        self._erased_at: dict[str, int] = {}
        self._entities = self._input((ITEMS, USERS), {}, None)
        self._entities.read_to_end(self._take_entity, stop)
        self._impressions = self._input((IMPRESSIONS,), kept.offsets, None)
        self._examples = self._input((EXAMPLES,), kept.offsets, DeadLetters(self._producer))
        self.publisher = Publisher(settings.kafka, encoding=settings.trainer.row_encoding)
        with successor_obeyed(self.publisher, settings.kafka, stop):
            self._epoch = self.publisher.begin_epoch(
                kept.position, self._learners.online.table, self._examples.positions[EXAMPLES.name]
            )
        hit("trainer.epoch-begun")
        now = time.monotonic()
        self._sparse_due = self._dense_due = self._report_due = self._metrics_due = now
        self._checkpoint_due = now + settings.trainer.checkpoint_interval_s
        self._dense_changed = True
        self._learned_something = False

    def step(self) -> None:
        """Reads what is there, up to one batch; predicts, learns, publishes and keeps what is due."""
        for record, value in self._entities.poll(0, 1_000):
            self._take_entity(record, value)
        while self._erased:
            self._learners.forget_user(self._erased.pop(), _now_ms(), self.publisher.version)
            hit("trainer.erased")
        if not self._learned_something and not self._is_ahead():
            self._see_impressions(0)
        idle_ms = 0.0 if self._learned_something else self._settings.trainer.poll_interval_ms
        batch = list(self._examples.poll(idle_ms, self._settings.trainer.max_batch))
        self._learned_something = bool(batch)
        if batch:
            self._learn(batch)
            hit("trainer.learned")
        self._publish()
        self._keep()

    def finish(self) -> None:
        """Keeps and publishes the last state, so that a restart has nothing to repeat."""
        self._send_validations(everything=True)
        self._send_alarms()
        self._send_metrics()
        self.publisher.flush(_STOP_TIMEOUT_S)
        self.publisher.publish_sparse(self._learners.online.table, self._learned_offsets())
        self.publisher.publish_dense(self._learners.online.dense_parameters())
        self.publisher.flush(_STOP_TIMEOUT_S)
        self._keeper.save(self._learners, self.publisher, self._offsets(), wait=True)
        self._producer.flush(_STOP_TIMEOUT_S)
        self._report()

    def close(self) -> None:
        """Ends connections and threads; what is not kept is lost and will be repeated."""
        for reader in (self._entities, self._impressions, self._examples):
            reader.close()
        self.publisher.close(_STOP_TIMEOUT_S)
        self._producer.close(_STOP_TIMEOUT_S)
        self._keeper.close()

    # --- learning --------------------------------------------------------------------------------------------------

    def _learn(self, batch: list[tuple[Any, Any]]) -> None:
        examples = [example for _, example in batch]
        if self._learners.unseen(examples):
            self._catch_up(examples, sorted({record.partition for record, _ in batch}))
        counts = self._learners.counters.examples
        for record, _ in batch:
            counts[record.partition] = counts.get(record.partition, 0) + 1
        # What is read again after a restart may be older than an erasure that is done: it must not undo it.
        living = [one for one in examples if one.ts > self._erased_at.get(one.user, -1)]
        self._learners.counters.erased += len(examples) - len(living)
        self._learners.learn(living, _now_ms(), self.publisher.version)
        self._dense_changed = True

    def _see_impressions(self, timeout_ms: float) -> None:
        self._learners.see([seen for _, seen in self._impressions.poll(timeout_ms, _IMPRESSIONS)])

    def _is_ahead(self) -> bool:
        # Beyond this, what is remembered would be forgotten before its examples come.
        return self._learners.predictions.ahead > self._settings.trainer.remembered_examples // 2

    def _catch_up(self, examples: list[Example], partitions: list[int]) -> None:
        """Reads impressions until these examples' are predicted, at most up to their present end, so that a request is
        predicted before a label of it is learned.

        Impressions and examples of a user share a partition number, and an impression is written before its examples.
        Under load this is the only place that reads them: predictions made far ahead would be those of an older model.
        """
        try:
            ends = self._impressions.ends(partitions)
        except kafka.BrokerAway as error:
            logger.warning("impressions could not be read to their end: %s", error)
            return
        while self._learners.unseen(examples) and not self._impressions.reached(ends) and not self._stop.is_set():
            self._see_impressions(100)

    def _take_entity(self, record: Any, value: Item | User | None) -> None:
        name = (record.key or b"").decode("utf-8", "replace")
        if record.topic == ITEMS.name:
            self._catalogue.put_item(name, value if isinstance(value, Item) else None)
            return
        self._catalogue.put_user(name, value if isinstance(value, User) else None)
        if value is None:
            self._erased_at[name] = record.timestamp
        # A deletion that the checkpoint knows must not hit a user who has come back since.
        if value is None and record.offset >= self._erased_before.get(record.partition, 0):
            self._erased.append(name)

    # --- publishing and keeping ------------------------------------------------------------------------------------

    def _publish(self) -> None:
        now = time.monotonic()
        if now >= self._sparse_due or not self._learned_something:
            sent = self.publisher.publish_sparse(self._learners.online.table, self._learned_offsets())
            if sent:
                self._sparse_due = now + self._settings.trainer.publish_interval_ms / 1e3
        if (
            self._dense_changed
            and now >= self._dense_due
            and self.publisher.publish_dense(self._learners.online.dense_parameters())
        ):
            self._dense_changed = False
            self._dense_due = now + self._settings.trainer.dense_interval_ms / 1e3
        self._send_validations(everything=False)
        self._send_alarms()
        if now >= self._metrics_due:
            self._metrics_due = now + _METRICS_INTERVAL_S
            self._send_metrics()
        if now >= self._report_due:
            self._report_due = now + _REPORT_INTERVAL_S
            self._report()

    def _keep(self) -> None:
        now = time.monotonic()
        if now < self._checkpoint_due:
            return
        self._checkpoint_due = now + self._settings.trainer.checkpoint_interval_s
        self._send_validations(everything=True)
        self._keeper.save(self._learners, self.publisher, self._offsets())
        self._keeper.cut(self._examples)

    def _send_validations(self, *, everything: bool) -> None:
        progressive, now_ms = self._learners.progressive, _now_ms()
        windows = progressive.take_closed(now_ms, self._epoch)
        if everything:
            windows += progressive.take_open(now_ms, self._epoch)
        for window in windows:
            self._producer.send(METRICS, window, "trainer")

    def _send_alarms(self) -> None:
        alarms = self._learners.drift.take_begun()
        for alarm in alarms:
            logger.warning("drift: %s", drift_text(alarm))
        for metric in drift_metrics(alarms):
            self._producer.send(METRICS, metric, "trainer")

    def _send_metrics(self) -> None:
        for metric in metrics(self._learners, self._settings, _now_ms()):
            self._producer.send(METRICS, metric, "trainer")

    def _report(self) -> None:
        counters, (items, users) = self._learners.counters, self._catalogue.sizes
        self._health.report(
            examples=sum(counters.examples.values()),
            learned=counters.learned,
            corrections=counters.corrections,
            impressions=counters.impressions,
            late_predictions=counters.late_predictions,
            unreadable=sum(one.unreadable for one in (self._entities, self._impressions, self._examples)),
            lag=self._examples.lag(),
            rows=len(self._learners.online.table),
            items=items,
            users=users,
            epoch=self._epoch,
            sequence=next(iter(self.publisher.sequences.values())),
            checkpoint=self._keeper.number,
            ack_ms=round(self.publisher.last_ack_ms, 2),
            **{name: round(value, 5) for name, value in self._learners.progressive.figures().items()},
            **health_values(self._learners, _now_ms()),
        )

    def _learned_offsets(self) -> dict[int, int]:
        return self._examples.positions[EXAMPLES.name]

    def _offsets(self) -> Positions:
        inputs = (self._entities, self._impressions, self._examples)
        return {topic: dict(at) for one in inputs for topic, at in one.positions.items()}

    def _input(self, topics: tuple[Topic, ...], positions: Positions, dead_letters: DeadLetters | None) -> Input:
        return Input(self._settings.kafka, topics, positions, dead_letters, self._stop)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
