"""One run from the first process to the last comparison; whatever happens, nothing is left running."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from infra.chaos import compare, disk, kills, points, stored, takeover
from infra.chaos.arena import FEAST, NAMES, Arena, Failed
from infra.chaos.broker import ExampleEnds
from infra.chaos.compare import Check
from infra.chaos.load import Load
from infra.chaos.plan import CONFIG, Plan
from infra.chaos.recovery import Watch
from infra.chaos.report import Report, make
from infra.chaos.settle import settle
from infra.control import StackError
from online_learning.models.fields import FieldEncoder
from serving.shared.mirror import Mirror

Tell = Callable[[str], None]


class Campaign:
    """Runs a plan in `folder`, which must be empty or absent."""

    def __init__(self, plan: Plan, folder: Path, tell: Tell) -> None:
        self._plan, self._folder, self._tell = plan, folder, tell
        self._checks: list[Check] = []
        self._errors: list[str] = []
        self._points: Counter[str] = Counter()
        self._schedule: list[str] = []

    def run(self) -> Report:
        """Starts, loads, kills, settles, compares and stops; what cannot be reached in time is an error in the report.

        Raises StackError where the stack does not even start.
        """
        begun_s = time.monotonic()
        watch: Watch | None = None
        with ExitStack() as exits:
            checkpoints = self._folder / "checkpoints"
            mounted = exits.enter_context(disk.small_disk(checkpoints))
            names = (*NAMES, *FEAST) if self._plan.feast else NAMES
            arena = Arena(self._folder, CONFIG.format(checkpoints=checkpoints), names)
            exits.callback(arena.stop)
            arena.start()
            self._tell(f"the stack is up in {self._folder}")
            watch = exits.enter_context(Watch(Path(arena.settings.serving.shm_dir)))
            try:
                self._attack(arena, watch, mounted)
            except (Failed, StackError) as error:
                self._errors.append(str(error))
        outages = watch.outages
        seconds = time.monotonic() - begun_s
        return make(self._plan, self._schedule, outages, self._points, self._checks, self._errors, seconds)

    def _attack(self, arena: Arena, watch: Watch, mounted: bool) -> None:
        plan = self._plan
        ends = ExampleEnds(arena.settings.kafka)
        try:
            with Load(arena.settings.kafka, plan.seed, plan.rate, _Rows(arena).has) as load:
                load.crowd(plan.crowd)
                arena.wait(lambda: watch.lineage.learned, 60.0, "the first frames are applied", "trainer", "replica")
                # Without one, who starts again has nothing to load, and passes no place where it is loaded.
                arena.wait(lambda: arena.value("trainer", "checkpoint"), 60.0, "a checkpoint is saved", "trainer")
                for part in plan.parts:
                    self._tell(f"--- {part}")
                    try:
                        self._run(part, arena, watch, ends, mounted)
                    except (Failed, StackError) as error:
                        # What is left is compared all the same.
                        self._errors.append(f"{part}: {error}")
                    load.check()
        finally:
            ends.close()
        self._tell(f"--- at rest: {load.requests} requests, {load.events} events, {load.twice} of them twice")
        mirror = Mirror(Path(arena.settings.serving.shm_dir))
        checkpoint = settle(arena, mirror)
        examples = compare.read_examples(arena)
        self._checks += [
            compare.rows(checkpoint, mirror, arena.settings.learning.trainer.row_encoding),
            compare.dense(checkpoint, mirror),
            compare.deleted(arena, checkpoint, mirror, load.erased),
            compare.learned(arena, checkpoint, examples),
            compare.joined(arena, (one for records in examples.values() for _, one in records)),
            compare.taken(arena, load.events + load.twice),
            stored.stored(arena, load),
            watch.onward(),
            compare.endings(arena.said_since("supervisor", 0)),
        ]
        if plan.feast:
            # Imported late: Feast takes seconds.
            from infra.chaos.pushed import pushed

            self._checks.append(pushed(arena))

    def _run(self, part: str, arena: Arena, watch: Watch, ends: ExampleEnds, mounted: bool) -> None:
        plan = self._plan
        if part == "failpoints":
            names, hits = points.places(plan), max(plan.hits, 1)
            found = points.Points(arena, watch, ends, points.orders(names, hits, plan.seed))
            try:
                found.run(self._tell)
            finally:
                self._points = found.hits
                self._checks.append(points.struck(found.hits, names, hits))
        elif part == "kills":
            schedule = kills.schedule(plan.kills, plan.seed)
            self._schedule = [str(kill) for kill in schedule]
            self._tell("schedule: " + " ".join(self._schedule))
            kills.run(arena, watch, ends, schedule, self._tell)
        elif part == "takeover":
            self._checks += takeover.run(arena, watch, self._folder / "second", self._tell)
        else:
            self._checks += disk.full(arena, watch, ends, mounted, self._tell)
            self._checks += disk.truncated(arena, watch, ends, self._tell)


class _Rows:
    """Whether readers of this host have a user's row."""

    def __init__(self, arena: Arena) -> None:
        self._encoder = FieldEncoder(arena.settings.learning.model)
        self._mirror = Mirror(Path(arena.settings.serving.shm_dir))

    def has(self, user: str) -> bool:
        """Looks now."""
        self._mirror.table.refresh()
        _, found = self._mirror.table.lookup(self._encoder.id_keys("user", user).astype(np.uint64))
        return bool(found.all())
