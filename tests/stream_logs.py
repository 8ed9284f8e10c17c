"""What is on the topics of the streams, for tests that compare it with what should be."""

import time

from streams.logs import end_sum, joined_and_expected, read_all, read_list
from streams.settings import KafkaSettings
from streams.topics import Topic

__all__ = ["end_sum", "joined_and_expected", "read_all", "read_list", "wait_quiet"]


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
