"""A kafka-python producer whose transactions survive a broker that refuses connections."""

from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError


def transactional_producer(config: dict[str, Any]) -> KafkaProducer:
    """A KafkaProducer with `config`, which names a `transactional_id`.

    kafka-python 3.0.12 forgets the request that it was about to send where the connection to the transaction's
    coordinator is refused (its sender retries only where the wait for the connection says no, not where it raises):
    the transaction, and with it the producer, then waits for ever. Here the wait says no.
    """
    producer = KafkaProducer(**config)
    client = producer._sender._client
    wait = client.await_ready

    def await_ready(*args: Any, **named: Any) -> bool:
        try:
            return bool(wait(*args, **named))
        except KafkaError:
            return False

    client.await_ready = await_ready
    return producer
