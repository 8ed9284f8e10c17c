"""A Kafka that serves one test after the other: made as empty as a new one, at a tenth of what starting one costs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from infra.provision import provision
from streams.admin import admin
from streams.kafka import connection
from streams.settings import KafkaSettings
from streams.transactions import transactional_producer
from tests.stacks import RunningStack, running_stack, wait_until
from tests.stream_logs import OPEN

_WAIT_S = 60.0


def emptied(stack: RunningStack) -> RunningStack:
    """The stack with all topics made anew, no group, no open transaction and the experiments that it declares.

    Whatever its last user did to it: a broker that was killed is waited for, and so are sessions of killed clients.
    """
    stack.wait_up()
    kafka = stack.settings.kafka

    def without_transactions() -> bool:
        return _answered(lambda: _end_transactions(client, kafka))

    def without_groups() -> bool:
        return _answered(lambda: _delete_groups(client))

    def without_topics() -> bool:
        return _answered(lambda: _delete_topics(client))

    def provisioned() -> bool:
        return _answered(lambda: provision(stack.settings) is None)

    with admin(kafka) as client:
        # Before the topics: the marker of an abort would be the first record of a topic made anew.
        wait_until(without_transactions, _WAIT_S, "no transaction is open")
        wait_until(without_groups, _WAIT_S, "no group is left")
        wait_until(without_topics, _WAIT_S, "no topic is left")
    wait_until(provisioned, _WAIT_S, "all topics are there")
    return stack


def on_kafka(kafka: RunningStack, config: str = "") -> str:
    """The settings `config` (TOML) and that this Kafka is to be used, which is there already."""
    return f'{config}\n[kafka]\nbootstrap = "{kafka.settings.kafka.bootstrap}"\n'


@contextmanager
def stack_on(kafka: RunningStack, folder: Path, *names: str, config: str = "") -> Iterator[RunningStack]:
    """A stack of these servers and processes, without a Kafka of its own, while the block runs."""
    path = folder.with_name(f"{folder.name}.toml")
    path.write_text(on_kafka(kafka, config))
    with running_stack(folder, *names, config=path) as stack:
        yield stack


def _end_transactions(client: KafkaAdminClient, kafka: KafkaSettings) -> bool:
    listed = [one for of_broker in client.list_transactions(state_filters=OPEN).values() for one in of_broker]
    for one in listed:
        # Who takes a killed producer's place aborts what it had begun.
        config = connection(kafka, "freshet-tests") | {"acks": "all", "transactional_id": one.transactional_id}
        producer = transactional_producer(config)
        try:
            producer.init_transactions()
        finally:
            producer.close(timeout=10)
    return not listed


def _delete_groups(client: KafkaAdminClient) -> bool:
    groups = [group["group_id"] for group in client.list_groups()]
    if groups:
        client.delete_groups(groups)
    return not groups


def _delete_topics(client: KafkaAdminClient) -> bool:
    topics = [name for name in client.list_topics() if not name.startswith("__")]
    if topics:
        client.delete_topics(topics)
    return not topics


def _answered(ask: Callable[[], bool]) -> bool:
    """What a broker says, and no where it is just coming back."""
    try:
        return ask()
    except KafkaError:
        return False
