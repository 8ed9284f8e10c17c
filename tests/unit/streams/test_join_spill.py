"""A join whose state is many times what it may hold in memory gives what the reference says."""

import random
from pathlib import Path

from streams.join import Join, Joined
from streams.local_state import opened
from streams.records import Action, Impression, Shown
from streams.reference import Expected, expected_examples, observed
from streams.settings import JoinSettings, StateSettings, StreamsSettings
from streams.topics import EXAMPLES, IMPRESSIONS

T0 = 1_700_000_000_000
REQUESTS, BATCH, STEP_MS = 6_000, 200, 10
MEMORY_MB = 0.25


def request(chance: random.Random, n: int) -> tuple[Impression, list[Action]]:
    """A request and what follows it: at once, late within the horizon, or beyond it; some of it twice."""
    ts, user = T0 + n * STEP_MS, f"user-{chance.randrange(1_500)}"
    items = [Shown(f"i{chance.randrange(300)}", k, 0.5, 0.1, "retrieval", False, [0.0] * 7, ts) for k in range(10)]
    acts = []
    for k in range(chance.choice([0, 0, 1, 1, 2])):
        at = ts + chance.choice([1, 500, 4_000, 20_000, 45_000])
        kind, value = chance.choice([("click", None), ("rating", 5.0), ("rating", 1.0)])
        asked = chance.choice([f"request-{n}", f"request-{n}", f"request-{n}", None])
        item, event = chance.choice(items).item, f"e{n}-{k}"
        acts.append(
            Action(
                ts=at, user=user, item=item, kind=kind, value=value, event_id=event, request_id=asked, received_at=at
            )
        )
    return Impression(1, f"request-{n}", ts, user, items), acts + acts[:1] * (n % 7 == 0)


def emitted(joined: Joined) -> list[Expected]:
    """What a batch says of examples."""
    return [
        observed(EXAMPLES.codec.decode(data or b""))
        for _, data in [*joined.closed.columns().entries(), *joined.examples]
    ]


def test_a_state_ten_times_the_memory_is_joined_as_the_reference_says(tmp_path: Path) -> None:
    chance = random.Random(4)
    made = [request(chance, n) for n in range(REQUESTS)]
    shown = [impression for impression, _ in made]
    acted = sorted((action for _, acts in made for action in acts), key=lambda one: one.ts)
    join = JoinSettings(window_s=5.0, lateness_s=1.0, horizon_s=30.0, negative_rate=0.5)
    settings = StreamsSettings(join=join, state=StateSettings(memory_mb=MEMORY_MB))
    disk = opened(tmp_path / "state", settings.state.memory_bytes // 2)
    running = Join(settings, disk)
    got: list[Expected] = []
    most_cached = most_held = 0
    at = 0
    for first in range(0, REQUESTS, BATCH):
        for impression in shown[first : first + BATCH]:
            running.impression(impression, IMPRESSIONS.codec.encode(impression), impression.ts)
        while at < len(acted) and acted[at].ts <= T0 + (first + BATCH) * STEP_MS:
            running.action(acted[at])
            at += 1
        running.advance()
        drained = running.drain(T0)
        got += emitted(drained)
        disk.apply(drained.changes, None)
        running.settle()
        sizes = running.sizes()
        most_cached, most_held = max(most_cached, sizes["cached_bytes"]), max(most_held, sizes["held"])
        if first == REQUESTS // 2:
            disk.close()
            disk = opened(tmp_path / "state", settings.state.memory_bytes // 2)
            running = Join(settings, disk)
    while at < len(acted):
        running.action(acted[at])
        at += 1
    running.advance(10**9, 10**9)
    got += emitted(running.drain(T0))
    assert sorted(got) == expected_examples({0: [(one, one.ts) for one in shown]}, {0: acted}, settings)
    held_bytes = most_held * len(IMPRESSIONS.codec.encode(shown[0]))
    assert held_bytes > 10 * settings.state.memory_bytes
    # Half of the memory is that of the buffers of the copy on disk.
    assert most_cached <= settings.state.memory_bytes // 2
    disk.close()
