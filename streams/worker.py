"""The Faust app of the streams: services where records are many, agents where they are few.

Faust's own plumbing costs 50 to 300 us an event, so the stages run as services with their own consumers and
transactions (`task`); the catalogue's topics, where little comes, are read by agents.
"""

import asyncio
import gc
import logging
import socket
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import faust
import faust.exceptions
import uvloop
from aiokafka.errors import KafkaError

from streams import catalogue, topics
from streams.admin import declared, ensure_topics
from streams.columns import columns_of
from streams.health import Health
from streams.kafka import Stopped, backoff
from streams.membership import Membership
from streams.negatives import Negatives
from streams.outbox import Outbox, partition_of
from streams.record_batch import record_batches
from streams.records import SCHEMA_VERSION, Impression, Shown
from streams.settings import StreamsSettings
from streams.task import TaskSettings

log = logging.getLogger(__name__)

APP = "freshet-worker"
SESSION_TIMEOUT_S = 6.0
# Faust waits for its broker when it stops; one that is away must not keep the process.
_STOP_S = 5.0


class StagesService(faust.Service):
    """Runs the stages' tasks of this worker inside the app."""

    def __init__(self, settings: StreamsSettings, task: TaskSettings, instance: str, health: Health) -> None:
        super().__init__()
        self._health = health
        self.membership = Membership(settings, task, instance, SESSION_TIMEOUT_S)

    async def on_start(self) -> None:
        self.membership.start()
        self.add_future(self._report())

    async def on_stop(self) -> None:
        await self.membership.close()

    async def _report(self) -> None:
        while not self.should_stop:
            if self.membership.ready:
                self._health.report(**self.membership.counts())
            await self.sleep(0.5)


def make_app(settings: StreamsSettings, task: TaskSettings, instance: str) -> Any:
    """The Faust app with the agents of the catalogue's topics."""
    # Faust insists on a folder; nothing of ours is in it.
    folder = Path(settings.state_dir or tempfile.gettempdir()) / f"faust-{instance}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        APP,
        broker="aiokafka://" + settings.kafka.bootstrap.replace(",", ";aiokafka://"),
        broker_client_id=f"{APP}-{instance}",
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=1.0,
        consumer_group_instance_id=f"{instance}-agents",
        consumer_auto_offset_reset="earliest",
        topic_allow_declare=True,
        topic_replication_factor=settings.kafka.replication,
        topic_partitions=1,
        web_enabled=False,
        store="memory://",
        datadir=str(folder),
        worker_redirect_stdouts=False,
    )
    items = app.topic(topics.ITEMS.name, key_serializer="raw", value_serializer="raw")
    users = app.topic(topics.USERS.name, key_serializer="raw", value_serializer="raw")

    async def send(out: Outbox) -> None:
        for topic, partition, entries in out:
            for key, value in entries:
                await (await app.producer.send(topic, key, value, partition, None, None))

    @app.agent(items, name="items")
    async def read_items(stream: Any) -> None:
        async for event in stream.events():
            out = Outbox(task.partitions)
            catalogue.take_item(_Origin(event), settings, time.time_ns() // 1_000_000, out)
            await send(out)

    @app.agent(users, name="users")
    async def read_users(stream: Any) -> None:
        async for event in stream.events():
            out = Outbox(task.partitions)
            catalogue.take_user(_Origin(event), settings, time.time_ns() // 1_000_000, out)
            await send(out)

    return app


class _Origin:
    """A Faust event as the record that it came from."""

    def __init__(self, event: Any) -> None:
        message = event.message
        self.topic: str = message.topic
        self.partition: int = message.partition
        self.offset: int = message.offset
        self.key: bytes | None = message.key
        self.value: bytes | None = message.value


def run(settings: StreamsSettings, stop: threading.Event, health: Health, instance: str = "") -> None:
    """Runs the worker until `stop` is set.

    `instance` tells workers of one group apart and is kept over restarts (static membership: a worker that comes back
    within 6 s gets its partitions back without a rebalance); by default it is host and state folder.
    """
    # The state is large and free of cycles: collecting it over and over took two fifths of the join's time.
    gc.set_threshold(200_000, 20, 1_000)
    # What lays out batches beside the join needs the interpreter for moments only, and waits so long for it.
    sys.setswitchinterval(0.000_5)
    _warm_up()
    name = instance or f"{socket.gethostname()}-{zlib.crc32(settings.state_dir.encode()):08x}"
    try:
        ensure_topics(settings, wait_s=86_400.0, stop=stop)
    except Stopped:
        return
    folder = Path(settings.state_dir or tempfile.gettempdir()) / f"state-{name}"
    partitions = {topic.name: topic.partitions for topic in declared(settings)}
    task = TaskSettings(app=APP, partitions=partitions, folder=folder)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings, task, name, stop, health))


def _warm_up() -> None:
    """Loads the compiled code of the join, or compiles it where that was never done: seconds in which none may wait."""
    partition_of(b"key", 1)
    negatives = Negatives(b"\x80", b"")
    shown = [Shown("item", 0, 1.0, 1.0, "", False)]
    negatives.add(topics.IMPRESSIONS.codec.encode(Impression(SCHEMA_VERSION, "request", 0, "user", shown)))
    for columns in (negatives.drain().columns(), columns_of([(b"key", b"value")])):
        for batch in record_batches(columns, 0, pack=False):
            batch.close()


async def _run(settings: StreamsSettings, task: TaskSettings, name: str, stop: threading.Event, health: Health) -> None:
    stages = StagesService(settings, task, name, health)
    await stages.start()
    agents = asyncio.create_task(_agents(settings, task, name))
    try:
        while not stop.is_set():
            # A fault of ours must end the process, not hide in a task: the supervisor starts it anew.
            stages.membership.check()
            if agents.done():
                agents.result()
            await asyncio.sleep(0.1)
    finally:
        agents.cancel()
        await asyncio.gather(agents, return_exceptions=True)
        await stages.stop()


async def _agents(settings: StreamsSettings, task: TaskSettings, name: str) -> None:
    """Runs the Faust app of the agents until cancelled; a new one after a crash (Faust does not outlive its broker)."""
    waits = backoff()
    while True:
        app = make_app(settings, task, name)
        try:
            await app.start()
            while not app.crashed:
                await asyncio.sleep(0.5)
            log.warning("agents: %s", app.crash_reason)
        except (KafkaError, OSError, TimeoutError, faust.exceptions.FaustError) as error:
            log.warning("agents: %s: %s", type(error).__name__, error)
        finally:
            try:
                await asyncio.wait_for(app.stop(), _STOP_S)
            except (KafkaError, OSError, TimeoutError) as error:
                log.warning("agents: stop: %s: %s", type(error).__name__, error)
        await asyncio.sleep(next(waits))
