"""Which partitions this worker owns: one consumer group decides, a task runs for each."""

import asyncio
import logging

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError

from streams import topics
from streams.cancellation import asked_to_end
from streams.closing import end_consumer
from streams.failpoints import hit
from streams.kafka import backoff
from streams.settings import StreamsSettings
from streams.stages import StageName
from streams.task import Task, TaskSettings

log = logging.getLogger(__name__)

_Key = tuple[StageName, int]
# The topic whose partitions decide who runs a stage; the join's other input has the same partitions.
_DECIDING = {
    topics.EVENTS.name: StageName.INTAKE,
    topics.ACTIONS.name: StageName.JOIN,
    topics.SIGNALS.name: StageName.ITEM_COUNTS,
}


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Joins the worker's consumer group and runs a task for every partition assigned.

    The group only decides and shows lag: tasks read with consumers of their own. Tasks that stay are not disturbed by a
    rebalance; one that goes elsewhere is fenced by its new owner, whatever this worker knows.
    """

    def __init__(self, settings: StreamsSettings, task: TaskSettings, instance: str, session_timeout_s: float) -> None:
        self._settings = settings
        self._task = task
        self._instance = instance
        self._session_timeout_ms = int(session_timeout_s * 1_000)
        self._tasks: dict[_Key, tuple[Task, asyncio.Task[None]]] = {}
        self._turn = asyncio.Lock()
        self._noted: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._running: asyncio.Task[None] | None = None
        self.assigned = False

    @property
    def ready(self) -> bool:
        """Whether the group has decided and every task of ours has its state."""
        return self.assigned and all(task.restored.is_set() for task, _ in self._tasks.values())

    def counts(self) -> dict[str, int]:
        """Figures of all tasks, summed by stage and name."""
        total: dict[str, int] = {"partitions": len(self._tasks)}
        for (stage, _), (task, _) in self._tasks.items():
            for name, value in task.counts().items():
                key = f"{stage}_{name}".replace("-", "_")
                total[key] = total.get(key, 0) + value
        return total

    def check(self) -> None:
        """Raises what ended a task or the group's membership: they end by themselves only through a fault of ours."""
        for running in [running for _, running in self._tasks.values()] + ([self._running] if self._running else []):
            if running.done():
                if running.cancelled():
                    raise RuntimeError(f"{running.get_name()} was cancelled by nobody of ours")
                running.result()

    def start(self) -> None:
        """Joins the group, in the background."""
        self._running = asyncio.create_task(self.run(), name="membership")

    async def run(self) -> None:
        """Stays in the group until cancelled; comes back after whatever fails."""
        waits = backoff()
        while True:
            try:
                await self._stay()
            except asyncio.CancelledError:
                if asked_to_end():
                    raise
                log.warning("worker group: the client gave up what was asked")
                await asyncio.sleep(next(waits))
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("worker group: %s: %s", type(error).__name__, error)
                await asyncio.sleep(next(waits))

    async def close(self) -> None:
        """Leaves and stops all tasks; an open transaction is aborted by whoever comes next."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._keep(set())

    async def _stay(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._settings.kafka.bootstrap,
            client_id=f"{self._task.app}-{self._instance}",
            group_id=f"{self._task.app}-stages",
            group_instance_id=self._instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=1_000,
            partition_assignment_strategy=(RangePartitionAssignor,),
        )
        consumer.subscribe([*_DECIDING, topics.IMPRESSIONS.name], listener=self)
        self._consumer = consumer
        await consumer.start()
        try:
            while True:
                await consumer.getmany(timeout_ms=1_000)
                await self._commit(consumer)
        finally:
            self._consumer = None
            await end_consumer(consumer)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        mine = consumer.assignment()
        news = {tp: offset for tp, offset in self._noted.items() if tp in mine and self._committed.get(tp) != offset}
        if news:
            try:
                hit("worker.offsets-committing")
                await consumer.commit(news)
                hit("worker.offsets-committed")
                self._committed |= news
            except KafkaError as error:
                # Only what others see of the lag is old for a second.
                log.debug("commit: %s", error)

    def _note(self, positions: dict[TopicPartition, int]) -> None:
        self._noted |= positions

    async def _upstream_done(self, topic: str) -> bool:
        """Whether all that was sent to `events` by now is on `actions`, by what the group has committed."""
        if topic != topics.ACTIONS.name:
            return True
        consumer = self._consumer
        if consumer is None:
            return False
        partitions = consumer.partitions_for_topic(topics.EVENTS.name) or set()
        events = [TopicPartition(topics.EVENTS.name, k) for k in partitions]
        try:
            ends = await consumer.end_offsets(events)
            committed = await asyncio.gather(*(consumer.committed(tp) for tp in events))
        except KafkaError:
            return False
        return bool(events) and all(ends[tp] <= (at or 0) for tp, at in zip(events, committed, strict=True))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing yet: fencing guards what moves, and what stays need not stop."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._committed.clear()
        if self._consumer is not None and assigned:
            self._consumer.pause(*assigned)
        wanted = {(_DECIDING[tp.topic], tp.partition) for tp in assigned if tp.topic in _DECIDING}
        await self._keep(wanted)
        for stage, partition in sorted(wanted - self._tasks.keys()):
            task = Task(stage, partition, self._settings, self._task, self._note, self._upstream_done, self._turn)
            self._tasks[stage, partition] = (task, asyncio.create_task(task.run(), name=task.name))
        self.assigned = True
        log.info("owns %s", ", ".join(task.name for task, _ in self._tasks.values()) or "nothing")

    async def _keep(self, wanted: set[_Key]) -> None:
        gone = [self._tasks.pop(key)[1] for key in list(self._tasks) if key not in wanted]
        for running in gone:
            running.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
