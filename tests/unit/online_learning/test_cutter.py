"""Cutting waits for its broker in a thread of its own, one cut at a time."""

from online_learning.cutter import Cutter
from streams.settings import KafkaSettings
from tests.stacks import wait_until


def test_a_broker_that_is_away_is_waited_for_beside_the_loop_and_given_up_at_the_end() -> None:
    # Nobody listens on the port of "discard" here.
    cutter = Cutter(KafkaSettings(bootstrap="127.0.0.1:9"), examples_kept_s=60.0)
    cutter.begin({0: 10}, {0: 5})
    cutter.begin({0: 20}, {0: 9})
    assert cutter.busy
    cutter.close()
    wait_until(lambda: not cutter.busy, 20, "the cut is given up")
