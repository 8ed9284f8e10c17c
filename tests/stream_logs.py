"""What is on the topics of the streams, for tests that compare it with what should be."""

import time

from kafka.admin import TransactionState
from kafka.errors import KafkaError

from streams.admin import admin
from streams.logs import end_sum, joined_and_expected, read_all, read_list
from streams.settings import KafkaSettings
from streams.topics import Topic
from tests.stacks import wait_until

__all__ = ["OPEN", "end_sum", "joined_and_expected", "read_all", "read_list", "wait_committed", "wait_quiet"]

# Of a transaction that readers do not know the end of.
OPEN = [TransactionState.ONGOING, TransactionState.PREPARE_ABORT, TransactionState.PREPARE_COMMIT]


def wait_committed(settings: KafkaSettings) -> None:
    """Waits until readers see all that was committed, where nobody begins anew: a commit is answered before they do."""
    with admin(settings) as client:

        def committed() -> bool:
            try:
                return not any(client.list_transactions(state_filters=OPEN).values())
            except KafkaError:
                # A broker that is just coming back.
                return False

        wait_until(committed, 60, "no transaction is under way")


def wait_quiet(settings: KafkaSettings, topic: Topic, quiet_s: float, timeout_s: float) -> None:
    """Waits until nothing was written to a topic for `quiet_s`."""
    deadline_s = time.monotonic() + timeout_s
    last, since_s = end_sum(settings, topic), time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        assert time.monotonic() < deadline_s, f"{topic.name} is still written to after {timeout_s} s"
        now = end_sum(settings, topic)
        if now != last:
            last, since_s = now, time.monotonic()
        time.sleep(0.2)
