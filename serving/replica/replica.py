"""The replica's loop: one thread, one consumer; updates first, because everything else can wait.

At the start, and after a gap in the update log:
  1. load the newest intact checkpoint into a new table, beside the one that readers use
  2. apply the tail of the log to it, and everything of the compacted topics
  3. publish; only then is the replica ready
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition

from features.views import parse_key
from online_learning.checkpoint.checkpoint import CheckpointError
from online_learning.models.retriever import new_retriever
from online_learning.updates.frames import BadFrame
from online_learning.updates.sequence import Gap
from serving.experiments.assignment import validate
from serving.replica.arms import Arms
from serving.replica.experiments import Experiments
from serving.replica.item_vectors import ItemVectors
from serving.replica.items import STATS_PREFIX, Items, incarnation_now
from serving.replica.room import Room
from serving.replica.update_log import UpdateLog
from serving.settings import ServingSettings
from serving.shared.dense_bundle import DenseReader
from serving.shared.files import SharedMemoryFull, lock_folder
from serving.shared.head import HeadWriter
from streams import kafka
from streams.codec import Unreadable
from streams.documents import deleted_id, read_document
from streams.health import Health
from streams.intake import Rejected
from streams.records import Item
from streams.settings import MOST_RECORD_BYTES
from streams.topics import EXPERIMENTS, FEATURES, ITEMS, UPDATES

logger = logging.getLogger(__name__)

_TOPICS: Final = (UPDATES.name, FEATURES.name, ITEMS.name, EXPERIMENTS.name)
# A poll returns as soon as anything is there; this bounds how long a sweep, a swap or the end of the process waits.
_POLL_MS: Final = 50
# Records of one poll: some 20 ms of feature rows, so that a frame never waits long behind them.
_MAX_RECORDS: Final = 1_000
_RETRY_S: Final = 0.5
_HEALTH_EVERY_S: Final = 1.0


class Replica:
    """Keeps the folder of shared memory that serving on this host reads."""

    def __init__(self, settings: ServingSettings, consumer: KafkaConsumer, partitions: list[TopicPartition]) -> None:
        trainer = settings.learning.trainer
        model = settings.learning.model
        head = HeadWriter(Path(settings.shm_dir))
        incarnation = incarnation_now()
        ttl_ms = int(settings.features.item_ttl_hours * 3_600_000)
        width = model.dim + 1
        self._consumer, self._partitions = consumer, partitions
        self._updates = [p for p in partitions if p.topic == UPDATES.name]
        self._features = [p for p in partitions if p.topic == FEATURES.name]
        self.log = UpdateLog(head, trainer.checkpoint_dir, width, trainer.row_encoding)
        self.items = Items(head, model, ttl_ms, incarnation)
        self._retriever = new_retriever(settings.learning)
        self.vectors = ItemVectors(head, self.items, self._retriever, incarnation)
        self.experiments = Experiments(head)
        self._arms = Arms()
        # While `features` is read again for arms that are back: up to where all others were taken already.
        self._back: frozenset[str] = frozenset()
        self._taken: dict[TopicPartition, int] = {}
        self._dense = DenseReader(Path(settings.shm_dir))
        self.unreadable = 0
        self.gaps = 0

    def start(self, stop: threading.Event) -> None:
        """Brings everything up to the ends that the topics have now, and publishes."""
        rest = [p for p in self._partitions if p.topic != UPDATES.name]
        self._consumer.seek_to_beginning(*rest)
        self._read_experiments(stop)
        self._start_table()
        ends = self._ends(self._partitions)
        while not stop.is_set() and self._behind(ends):
            try:
                self.poll(publish=False)
            except Gap as gap:
                logger.warning("%s; trying again", gap)
                stop.wait(_RETRY_S)
                self._start_table()
                ends |= self._ends(self._updates)
        self.publish()

    def publish(self) -> None:
        """Makes table, items and vectors what readers see."""
        self.log.publish()
        self.vectors.touch_all()
        self.flush()

    def restart_table(self, stop: threading.Event) -> None:
        """After a gap: builds the table anew from a checkpoint, while readers go on with the old one."""
        self.gaps += 1
        self._start_table()
        ends = self._ends(self._updates)
        while not stop.is_set() and self._behind(ends):
            self.poll(publish=False)
        self.publish()

    def poll(self, publish: bool = True) -> None:
        """Takes what has arrived, waiting up to 50 ms for it, and writes it down. Raises Gap."""
        found: Mapping[TopicPartition, list[Any]] = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
        for partition in self._updates:
            self._apply_updates(found.get(partition, []))
        for partition, records in found.items():
            if partition.topic == FEATURES.name:
                self._apply_features(partition, records)
            elif partition.topic == ITEMS.name:
                self._apply_items(records)
        # After the features that came with them: a definition may have features read again from the beginning.
        for partition, records in found.items():
            if partition.topic == EXPERIMENTS.name:
                self._apply_experiments(records)
        if publish:
            self.flush()

    def flush(self) -> None:
        """Writes what has been collected, as far as it is due."""
        now_s = time.monotonic()
        self.items.flush_stats()
        self.vectors.add_new()
        if self._retriever.layered:
            self.vectors.take(self._dense.current().parameters)
        self.vectors.flush(self.log.table, now_s)
        self.items.flush_catalogue(now_s)
        self.experiments.flush()

    def report(self, health: Health) -> None:
        """Says how far everything is."""
        lineage, dense = self.log.lineage, self.log.dense_position
        p50_ms, p99_ms = self.log.latencies_ms()
        health.report(
            epoch=lineage.epoch,
            sequence=lineage.sequence,
            dense=dense.sequence,
            lag=self._lag(),
            rows=len(self.log.table),
            items=len(self.items),
            table_bytes=self.log.table.size_bytes,
            apply_p50_ms=round(p50_ms, 1),
            apply_p99_ms=round(p99_ms, 1),
            gaps=self.gaps,
            unreadable=self.unreadable,
            waiting_for="",
        )

    def _read_experiments(self, stop: threading.Event) -> None:
        """Reads the definitions first: they say of which arms statistics are kept."""
        own = [p for p in self._partitions if p.topic == EXPERIMENTS.name]
        others = [p for p in self._partitions if p.topic != EXPERIMENTS.name]
        self._consumer.pause(*others)
        ends = self._ends(own)
        while not stop.is_set() and self._behind(ends):
            self.poll(publish=False)
        self._consumer.resume(*others)

    def _start_table(self) -> None:
        """Puts the consumer where the log follows the newest checkpoint."""
        position = self.log.begin()
        begins, ends = kafka.begin_offsets(self._consumer, self._updates), self._ends(self._updates)
        for p in self._updates:
            offset = position.offsets.get(p.partition, 0)
            # An offset beyond the end is of a log that is no more; the frames' own order decides what counts.
            self._consumer.seek(p, offset if begins[p] <= offset <= ends[p] else begins[p])

    def _ends(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return kafka.end_offsets(self._consumer, partitions)

    def _behind(self, ends: Mapping[TopicPartition, int]) -> bool:
        return any(self._consumer.position(p) < end for p, end in ends.items())

    def _lag(self) -> int:
        known = [(self._consumer.highwater(p), self._consumer.position(p)) for p in self._partitions]
        return sum(max(0, end - at) for end, at in known if end is not None and at is not None)

    def _apply_updates(self, records: Iterable[Any]) -> None:
        for record in records:
            try:
                frame = UPDATES.codec.decode(record.value)
                self.vectors.touch(self.log.apply(frame))
            except (Unreadable, BadFrame) as error:
                # What it said is lost: as good as missing.
                raise Gap(f"`updates` offset {record.offset}: {error}") from error

    def _apply_features(self, partition: TopicPartition, records: Iterable[Any]) -> None:
        taken = self._taken.get(partition, 0)
        for record in records:
            if record.key is None or not record.key.startswith(STATS_PREFIX):
                continue
            try:
                _, entities = parse_key(record.key.decode())
                arm = entities["arm"]
                if not self._arms.wants(arm) or (record.offset < taken and arm not in self._back):
                    continue
                row = None if record.value is None else FEATURES.codec.decode(record.value)
                self.items.put_stats(entities["item"], arm, row)
            except ValueError as error:
                self._skip(record, error)

    def _apply_items(self, records: Iterable[Any]) -> None:
        for record in records:
            try:
                item, state = item_of(record)
            except Rejected as error:
                self._skip(record, error)
                continue
            if item and (slot := self.items.put(item, state)) is not None:
                self.vectors.add_new()
                self.vectors.add(slot)

    def _apply_experiments(self, records: Iterable[Any]) -> None:
        for record in records:
            try:
                name = record.key.decode() if record.key is not None else ""
                definition = None if record.value is None else EXPERIMENTS.codec.decode(record.value)
                if definition is not None:
                    validate(definition)
            except (ValueError, RecursionError) as error:
                self._skip(record, error)
            else:
                self.experiments.put(name, definition)
        self._follow_arms()

    def _follow_arms(self) -> None:
        """Drops the statistics of arms that have ended, and reads again those of arms that are back."""
        if not self._behind(self._taken):
            self._back = frozenset()
        back = self._arms.follow(self.experiments.definitions)
        self.items.keep_arms(self._arms.wanted)
        if not back:
            return
        self._back |= back
        for p in self._features:
            self._taken[p] = max(self._taken.get(p, 0), self._consumer.position(p) or 0)
        self._consumer.seek_to_beginning(*self._features)

    def _skip(self, record: Any, error: Exception) -> None:
        self.unreadable += 1
        logger.warning("%s-%d offset %d passed over: %s", record.topic, record.partition, record.offset, error)


def item_of(record: Any) -> tuple[str, Item | None]:
    """The id and the newest state (None: deleted) in a record of `items`; raises Rejected where the worker would bury
    it, so that nothing is served of what the dead letters tell of."""
    if record.value is None:
        return deleted_id(record), None
    state = read_document(record, Item, MOST_RECORD_BYTES)
    assert isinstance(state, Item)
    return state.item, state


def run(settings: ServingSettings, stop: threading.Event, health: Health) -> None:
    """Keeps `settings.shm_dir` up to date until `stop`; the first report to `health` that waits for nothing: ready.

    Where the memory is full, readers go on with what they have, and the replica with all of it when there is room.
    Raises AlreadyRunning where another replica writes there, BrokerAway, Stopped.
    """
    folder = Path(settings.shm_dir)
    held = lock_folder(folder)
    consumer = kafka.consumer(settings.kafka, client_id="freshet-replica", max_poll_records=_MAX_RECORDS, stop=stop)
    try:
        partitions = kafka.assign(consumer, _TOPICS, stop=stop)
        room = Room(folder, stop, health)
        while not stop.is_set():
            begun_s = time.monotonic()
            try:
                _serve(settings, consumer, partitions, stop, health)
                break
            except SharedMemoryFull as error:
                room.lacks(error, time.monotonic() - begun_s)
            # Outside of the handler, whose traceback holds all that the replica had mapped.
            room.wait()
    finally:
        consumer.close()
        os.close(held)


def _serve(
    settings: ServingSettings,
    consumer: KafkaConsumer,
    partitions: list[TopicPartition],
    stop: threading.Event,
    health: Health,
) -> None:
    """The life of one replica until `stop`. Raises SharedMemoryFull."""
    replica = Replica(settings, consumer, partitions)
    while not stop.is_set():
        try:
            replica.start(stop)
            break
        except CheckpointError as error:
            logger.warning("%s; trying again", error)
            stop.wait(_RETRY_S)
    _follow(replica, stop, health)


def _follow(replica: Replica, stop: threading.Event, health: Health) -> None:
    reported_s = float("-inf")
    restart = False
    while not stop.is_set():
        try:
            if restart:
                replica.restart_table(stop)
                restart = False
            replica.poll()
        except (Gap, CheckpointError) as error:
            logger.warning("%s; starting again from a checkpoint", error)
            if restart:
                stop.wait(_RETRY_S)
            restart = True
        now_s = time.monotonic()
        if now_s - reported_s >= _HEALTH_EVERY_S:
            replica.report(health)
            reported_s = now_s
