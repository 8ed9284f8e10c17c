"""Ends aiokafka's clients, also where their broker is away.

Their own `stop` waits for what such a broker does not take, and where it is cut short, its tasks go on trying beside
those of whoever comes after.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from streams.cancellation import asked_to_end

log = logging.getLogger(__name__)

_CLOSE_S: Final = 2.0


async def end_producer(producer: AIOKafkaProducer) -> None:
    """Drops what the producer holds: an open transaction is aborted by whoever fences it."""
    producer._closed = True
    await bounded(producer._sender.close())
    await bounded(producer.client.close())


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stops the consumer; what it could not say to its broker stays unsaid."""
    await bounded(consumer.stop())
    await bounded(consumer._client.close())


async def bounded(closing: Awaitable[Any]) -> None:
    """Waits for `closing`, but not for long."""
    try:
        async with asyncio.timeout(_CLOSE_S):
            await closing
    except asyncio.CancelledError:
        if asked_to_end():
            raise
    except (KafkaError, OSError, TimeoutError) as error:
        log.debug("close: %s", error)
