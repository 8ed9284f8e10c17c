"""Every failpoint of our processes, struck under load: one life after the other ends at the next one.

The processes go on side by side. A life begins with its failpoint armed; while it lasts, the next one waits for the
life after it.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from infra.chaos.arena import Arena, Failed
from infra.chaos.broker import ExampleEnds
from infra.chaos.compare import Check
from infra.chaos.plan import NEEDS_A_CROWD, Plan
from infra.chaos.recovery import Watch
from infra.settings import SettingsError
from streams.failpoints import CATALOGUE, Arm, Kind

# From an event to a reader's row: only what dies on the way interrupts it.
ON_THE_WAY: Final = ("trainer", "replica", "worker")
PROCESSES: Final = (*ON_THE_WAY, "sink", "features")

# At which hit a place strikes, drawn between these: steps of every batch pass many times before one looks again, those
# of a checkpoint twice in a second, those of a start only then.
_COUNTS: Final[dict[str, tuple[int, int]]] = {
    "trainer.learned": (5, 30),
    "trainer.erased": (1, 3),
    "trainer.frames-made": (5, 30),
    "trainer.transaction-begun": (5, 30),
    "trainer.frames-sent": (5, 30),
    "trainer.frames-committed": (5, 30),
    "trainer.keys-forgetting": (5, 30),
    "trainer.keys-forgotten": (5, 30),
    "trainer.dense-sent": (2, 6),
    "trainer.checkpoint-hidden": (1, 1),
    "replica.rows-removed": (5, 30),
    "replica.row-odd": (5, 30),
    "replica.rows-applied": (5, 30),
    "replica.lineage-odd": (5, 30),
    "replica.frame-told": (5, 30),
    "replica.file-written": (1, 8),
    "replica.file-renamed": (1, 8),
    "replica.head-advanced": (1, 8),
    "worker.processed": (5, 30),
    "worker.transaction-begun": (5, 30),
    "worker.topic-sent": (5, 75),
    "worker.batch-sent": (5, 30),
    "worker.batch-committed": (5, 30),
    "worker.copy-written": (5, 30),
    "worker.settled": (5, 30),
    "worker.offsets-noted": (5, 30),
    "features.pushing": (1, 6),
    "features.pushed": (1, 6),
    "features.position-written": (1, 10),
    "features.online-saved": (1, 6),
    "features.erased": (1, 3),
    "features.part-written": (1, 8),
    "features.part-renamed": (1, 8),
    "features.history-saved": (1, 3),
    "sink.intent-committing": (1, 4),
    "sink.intent-committed": (1, 4),
    # Of up to six tables in a batch.
    "sink.inserting": (1, 12),
    "sink.inserted": (1, 12),
    "sink.end-committing": (1, 4),
    "sink.end-committed": (1, 4),
}
_CHECKPOINTS: Final = (1, 3)

# Lives that begin too slowly for the shortest form.
_SLOW: Final = "features"
# A place that is not reached in this time (of a loaded machine) is one that is not there.
_REACHED_S: Final = 120.0
# One that does not begin another life in this time never will.
_BEGUN_S: Final = 120.0
_LOOK_S: Final = 0.05


def named(starts: str) -> tuple[str, ...]:
    """The places whose names begin as one of `starts`, as "trainer.,sink.end". Raises SettingsError where one begins
    none."""
    beginnings = tuple(start.strip() for start in starts.split(","))
    for start in beginnings:
        if not start or not any(name.startswith(start) for name in CATALOGUE):
            process = f"{start.partition('.')[0]}."
            known = [name for name in CATALOGUE if name.startswith(process)] or [f"{one}." for one in PROCESSES]
            told = f"--points: no failpoint begins with {start!r}: must begin as one of {', '.join(known)}"
            raise SettingsError(told)
    return tuple(name for name in CATALOGUE if name.startswith(beginnings))


def places(plan: Plan) -> list[str]:
    """Those that a plan strikes."""
    if plan.points:
        return list(plan.points)
    return list(CATALOGUE) if plan.hits else chosen(random.Random(plan.seed))


def chosen(rng: random.Random) -> list[str]:
    """One place of every process and kind of step, by chance."""
    found = []
    for process in PROCESSES:
        for kind in Kind if process != _SLOW else ():
            places = [
                name
                for name, place in CATALOGUE.items()
                if name.startswith(f"{process}.") and place.kind is kind and name not in NEEDS_A_CROWD
            ]
            found += rng.sample(places, min(1, len(places)))
    return found


def orders(names: list[str], hits: int, seed: int) -> dict[str, deque[Arm]]:
    """For each process what its lives end at, every name `hits` times, in an order by chance."""
    rng = random.Random(seed)
    found: dict[str, deque[Arm]] = {}
    for process in PROCESSES:
        own = [name for name in names if name.startswith(f"{process}.")]
        lives = [name for _ in range(hits) for name in rng.sample(own, len(own))]
        found[process] = deque(Arm(name, rng.randint(*_count(name))) for name in lives)
    return found


def _count(name: str) -> tuple[int, int]:
    if name in _COUNTS:
        return _COUNTS[name]
    return _CHECKPOINTS if ".checkpoint-" in name and name.startswith("trainer.") else (1, 1)


class _Process:
    """What one process does: `current` is armed in the life that it has, `waiting` in the one after it."""

    def __init__(self, name: str, lives: deque[Arm], seen: tuple[int, str] | None) -> None:
        self.name, self.lives, self.seen = name, lives, seen
        self.current: Arm | None = None
        self.waiting: Arm | None = None
        self.since_s = time.monotonic()

    @property
    def done(self) -> bool:
        return not self.lives and self.current is None and self.waiting is None


class Points:
    """The lives of all processes; `hits` counts what struck, also what never did."""

    def __init__(self, arena: Arena, watch: Watch, ends: ExampleEnds, lives: dict[str, deque[Arm]]) -> None:
        self._arena, self._watch, self._ends = arena, watch, ends
        self._processes = [_Process(name, queue, arena.state.struck(name)) for name, queue in lives.items() if queue]
        self.hits = Counter({arm.name: 0 for queue in lives.values() for arm in queue})
        self._again: set[str] = set()

    def run(self, tell: Callable[[str], None]) -> None:
        """Until every life has ended where it should, and frames flow again. Raises Failed."""
        for process in self._processes:
            self._arm(process)
            # The life that is there has nothing armed.
            self._kill(process)
        while not all(process.done for process in self._processes):
            for process in self._processes:
                self._look(process, tell)
            time.sleep(_LOOK_S)
        # Not so where nobody on the way was struck.
        if self._watch.outages:
            last = self._watch.outages[-1]
            self._arena.wait(lambda: last.everywhere_s is not None, 300.0, "frames flow again", *ON_THE_WAY)

    def _look(self, process: _Process, tell: Callable[[str], None]) -> None:
        struck = self._arena.state.struck(process.name)
        if struck is not None and struck != process.seen and process.current is not None:
            process.seen = struck
            self.hits[process.current.name] += 1
            tell(f"{process.current}; {sum(len(other.lives) for other in self._processes)} lives to go")
            process.current, process.since_s = None, time.monotonic()
            self._killed(process, struck[1])
        if process.waiting is not None and not self._arena.state.armed(process.name):
            process.current, process.waiting, process.since_s = process.waiting, None, time.monotonic()
        if process.waiting is None and process.lives:
            self._arm(process)
        lasts_s = time.monotonic() - process.since_s
        if process.current is None and process.waiting is not None and lasts_s > _BEGUN_S:
            words = self._arena.words(process.name)
            raise Failed(f"{process.name} does not begin another life in {_BEGUN_S:g} s\n{words}")
        if process.current is not None and lasts_s > _REACHED_S:
            tell(f"{process.current} was not reached in {_REACHED_S:g} s")
            if process.current.name not in self._again:
                # Once more: on a loaded machine, or where others die at a bad moment, it may have had no chance.
                self._again.add(process.current.name)
                process.lives.append(process.current)
                if process.waiting is None:
                    self._arm(process)
            process.current, process.since_s = None, time.monotonic()
            self._kill(process)

    def _arm(self, process: _Process) -> None:
        process.waiting = process.lives.popleft()
        self._arena.state.arm(process.name, str(process.waiting))

    def _kill(self, process: _Process) -> None:
        self._arena.wait(lambda: self._arena.kill(process.name), 60.0, f"{process.name} has a process", process.name)
        self._killed(process, "kill -9")

    def _killed(self, process: _Process, why: str) -> None:
        if process.name not in ON_THE_WAY:
            return
        at_s, at_ms = time.monotonic(), time.time_ns() // 1_000_000
        self._watch.killed((process.name,), why, at_s, at_ms, self._ends.now())


def struck(hits: Mapping[str, int], names: Iterable[str], wanted: int) -> Check:
    """Every one of these places has struck as often as was asked."""
    known = sorted(names)
    few = [f"{name} {hits.get(name, 0)}" for name in known if hits.get(name, 0) < wanted]
    least = min((hits.get(name, 0) for name in known), default=0)
    compared = f"{len(known)} places, {sum(hits.values())} lives, the least often struck {least} times"
    return Check(f"failpoints struck {wanted} times each", compared, ", ".join(few))
