"""Random kills -9 of trainer, replica, worker and broker under load, alone and in pairs."""

import itertools
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from infra.chaos.arena import Arena
from infra.chaos.broker import ExampleEnds
from infra.chaos.recovery import Outage, Watch

# Those that have most to lose are killed most often.
_WEIGHTS: Final = {"trainer": 4, "replica": 3, "worker": 3, "kafka": 2}
_PAIRS: Final = 0.3
# Killed again before it is over: in the middle of starting, restoring, repairing.
_AGAIN: Final = 0.15
_PAUSE_S: Final = (0.2, 2.5)
_AGAIN_S: Final = (0.5, 5.0)
# After a recovery that took longer the report says what everybody waited for.
_SLOW_S: Final = 15.0
_ASKED: Final = ("supervisor", "worker", "trainer", "replica")
_LINES: Final = 40


class Kill(msgspec.Struct, frozen=True):
    """`victims` die together; the next kill comes `pause_s` after frames flow again, or, with `again`, after this
    kill."""

    victims: tuple[str, ...]
    pause_s: float
    again: bool

    def __str__(self) -> str:
        return "+".join(self.victims) + ("!" if self.again else "")


def schedule(kills: int, seed: int) -> list[Kill]:
    """So many victims (a pair counts as two); every process and every pair of processes comes before any repeats."""
    rng = random.Random(seed)
    names = list(_WEIGHTS)
    alone = [(name,) for name in rng.sample(names, len(names))]
    pairs = rng.sample(list(itertools.combinations(names, 2)), 6)
    found: list[Kill] = []
    left = kills
    while left > 0:
        if left > 1 and rng.random() < _PAIRS:
            victims: tuple[str, ...] = pairs.pop() if pairs else _pair(rng, names)
        else:
            victims = alone.pop() if alone else tuple(rng.choices(names, list(_WEIGHTS.values())))
        again = rng.random() < _AGAIN
        found.append(Kill(victims, rng.uniform(*(_AGAIN_S if again else _PAUSE_S)), again))
        left -= len(victims)
    return found


def _pair(rng: random.Random, names: list[str]) -> tuple[str, ...]:
    first, second = rng.sample(names, 2)
    return tuple(sorted((first, second), key=names.index))


def run(arena: Arena, watch: Watch, ends: ExampleEnds, plan: list[Kill], tell: Callable[[str], None]) -> None:
    """Executes the schedule; after each kill (but those that come again) waits until frames flow. Raises Failed."""
    done = 0
    begun: dict[str, int] = {}
    for kill in plan:
        done += len(kill.victims)
        begun = begun or {name: arena.log_size(name) for name in _ASKED}
        outage = strike(arena, watch, ends, kill.victims)
        if not kill.again:
            arena.wait(
                lambda outage=outage: outage.everywhere_s is not None,  # type: ignore[misc]
                300.0,
                f"frames flow again after {kill}",
                *outage.victims,
                "trainer",
                "replica",
                "worker",
            )
            tell(f"{done} kills, last {kill}: {outage.next_frame_s or 0.0:.1f} s")
            if (outage.next_frame_s or 0.0) > _SLOW_S:
                for name, size in begun.items():
                    said = arena.said_since(name, size).splitlines()[-_LINES:]
                    tell("\n".join([f"--- {name} meanwhile", *said]))
            begun = {}
        time.sleep(kill.pause_s)


def strike(arena: Arena, watch: Watch, ends: ExampleEnds, victims: tuple[str, ...]) -> Outage:
    """Kills these at once, the broker last, because it is asked how far `examples` is; one that has no process at this
    moment is waited for."""
    there = ends.now() if "kafka" in victims else None
    for name in sorted(victims, key=lambda name: name == "kafka"):
        arena.wait(lambda name=name: arena.kill(name), 60.0, f"{name} has a process to kill", name)  # type: ignore[misc]
    at_s, at_ms = time.monotonic(), time.time_ns() // 1_000_000
    return watch.killed(victims, "kill -9", at_s, at_ms, ends.now() if there is None else there)
