"""Clients whose broker is away end at once, and nothing of them goes on."""

import asyncio
import os
import signal

from aiokafka import AIOKafkaProducer, TopicPartition

from streams.changelog import reader
from streams.closing import end_consumer, end_producer
from streams.topics import ACTIONS
from tests.stacks import RunningStack, gone, wait_until


async def _ended(stack: RunningStack) -> set[str]:
    bootstrap = stack.settings.kafka.bootstrap
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id="closing", request_timeout_ms=10_000)
    await producer.start()
    consumer = reader(stack.settings.kafka, "closing")
    await consumer.start()
    consumer.assign([TopicPartition(ACTIONS.name, 0)])
    await producer.begin_transaction()
    await (await producer.send(ACTIONS.name, b"sent", partition=0))
    kafka = stack.pid("kafka")
    os.kill(kafka, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: gone(kafka), 60, "the broker is gone")
    # What it is given now it can neither send nor forget.
    sending = await producer.send(ACTIONS.name, b"never", partition=0)
    reading = asyncio.create_task(consumer.getmany(timeout_ms=100))
    await asyncio.gather(end_producer(producer), end_consumer(consumer))
    await asyncio.gather(reading, return_exceptions=True)
    sending.cancel()
    return {str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def test_clients_of_a_broker_that_is_away_end_wholly(fresh_kafka: RunningStack) -> None:
    assert asyncio.run(_ended(fresh_kafka)) == set()
