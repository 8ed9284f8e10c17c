"""The worker is killed with -9, again and again: every example is given once, and is the one that it should be."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from streams import topics
from streams.kafka import Producer, producer
from streams.records import Event, Impression, Shown
from tests.stacks import RunningStack, running_stack, wait_until
from tests.stream_logs import joined_and_expected, read_all

pytestmark = [pytest.mark.servers, pytest.mark.faults]

CONFIG = """
[streams.join]
window_s = 3.0
lateness_s = 1.0
idle_s = 0.5
negative_rate = 0.5
"""
ITEMS = 4


def send(out: Producer, chance: random.Random, first: int, last: int) -> None:
    """Requests and what users do with them: clicks and ratings, some twice, some overtaking, some without a request."""
    for n in range(first, last):
        user, request = f"u{chance.randrange(40)}", f"r{n}"
        now_ms = time.time_ns() // 1_000_000
        shown = [Shown(f"i{k}", k, 0.5, 0.25, "popular", False) for k in range(ITEMS)]
        impression = Impression(v=1, request_id=request, ts=now_ms, user=user, items=shown)
        acts = []
        if chance.random() < 0.5:
            item = f"i{chance.randrange(ITEMS + 1)}"
            acts.append(Event(ts=now_ms + 1, user=user, item=item, kind="click", event_id=f"c{n}", request_id=request))
        if chance.random() < 0.3:
            value = float(chance.randrange(1, 6))
            acts.append(Event(ts=now_ms + 2, user=user, item="i0", kind="rating", value=value, request_id=request))
        if chance.random() < 0.2:
            acts.append(Event(ts=now_ms, user=user, item="i9", kind="like", event_id=f"o{n}"))
        if acts and chance.random() < 0.2:
            acts.append(acts[0])
        if chance.random() < 0.5:
            acts.insert(0, impression)  # type: ignore[arg-type]
        else:
            acts.append(impression)  # type: ignore[arg-type]
        for one in acts:
            topic = topics.IMPRESSIONS if isinstance(one, Impression) else topics.EVENTS
            # Half of the producers know nothing of our keys.
            key = user if topic is topics.IMPRESSIONS or chance.random() < 0.5 else None
            out.send(topic, one, key)


def check(stack: RunningStack) -> None:
    settings = stack.settings.streams
    events = sum(map(len, read_all(settings.kafka, topics.EVENTS).values()))

    def taken() -> bool:
        return sum(map(len, read_all(settings.kafka, topics.ACTIONS).values())) >= events

    wait_until(taken, 60, "the intake has taken every event")
    assert sum(map(len, read_all(settings.kafka, topics.ACTIONS).values())) == events

    def complete() -> bool:
        got, expected = joined_and_expected(settings)
        return len(got) >= len(expected)

    wait_until(complete, 60, "as many examples as the reference gives")
    got, expected = joined_and_expected(settings)
    assert got == expected
    assert len(expected) > 1_000


@pytest.mark.timeout(400)
def test_no_example_is_lost_or_doubled_by_kills(tmp_path: Path) -> None:
    chance = random.Random(5)
    config = tmp_path / "freshet.toml"
    config.write_text(CONFIG)
    with running_stack(tmp_path / "stack", "kafka", "worker", config=config) as stack:
        with producer(stack.settings.kafka) as out:
            n = 0
            for _ in range(3):
                send(out, chance, n, n + 400)
                n += 400
                before = stack.restarts("worker")
                os.kill(stack.pid("worker"), signal.SIGKILL)
                send(out, chance, n, n + 400)
                n += 400
                wait_until(
                    lambda before=before: stack.restarts("worker") > before and stack.is_up("worker"),  # type: ignore[misc]
                    90,
                    "the worker is back",
                )
            out.flush(30)
        check(stack)
