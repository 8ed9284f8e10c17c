"""The load: a simulated world that asks and acts, and a few producers who make it hard for the join.

Answers are drawn at random and logged as impressions, as serving would; some events are sent twice, some overtake their
impression, some come without a key. Users who come once and are then erased show whether deletions arrive; what cannot
be read shows whether the sink says so.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from msgspec.structs import replace

from streams.kafka import producer
from streams.records import SCHEMA_VERSION, Assignment, Event, Impression, Shown, User
from streams.settings import KafkaSettings
from streams.simulation.catalogue import Catalogue
from streams.simulation.loop import Answered, Simulation, Traffic
from streams.simulation.world import World, WorldSettings
from streams.topics import EVENTS, IMPRESSIONS, METRICS, USERS, Topic

SLOTS: Final = 4
ARMS: Final = ("online", "popularity")
_TWICE, _NO_KEY, _RATED, _HELD_BACK = 0.1, 0.5, 0.2, 0.2
# How long an impression is held back, so that quick actions overtake it.
_HELD_BACK_S: Final = 0.3
_THINK_S: Final = 0.25
_DOOMED_EVERY_S: Final = 0.5
_TICK_S: Final = 0.05
_WORLD: Final = WorldSettings(users=300, items=100)


class Load:
    """Runs while the block does; its end waits until all that was sent is acknowledged.

    `learned(user)` says whether readers have a row of the user: only then is one of the doomed erased.
    """

    def __init__(self, settings: KafkaSettings, seed: int, rate: float, learned: Callable[[str], bool]) -> None:
        self._settings, self._seed, self._learned = settings, seed, learned
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._failed: list[BaseException] = []
        self._world = World(seed, _WORLD)
        self._names = Catalogue(seed=seed, scene=f"chaos-{seed}")
        # Longer than any campaign: it ends when it is told to.
        self._traffic = Traffic(rate=rate, seconds=86_400.0, slots=SLOTS, threads=2, organic=rate / 5, think_s=_THINK_S)
        self._held_back: deque[tuple[float, Impression]] = deque()
        self._doomed: deque[str] = deque()
        self.requests = self.events = self.twice = self.garbage = 0
        self.erased: list[str] = []

    def check(self) -> None:
        """Raises what ended the load, if anything did."""
        if self._failed:
            raise self._failed[0]

    def crowd(self, users: int) -> None:
        """So many users come once, each by one click."""
        for k in range(users):
            self._click(f"crowd{self._seed}-{k}")
        self._out.flush(60.0)

    def __enter__(self) -> Self:
        self._out = producer(self._settings, client_id="freshet-chaos")
        simulation = Simulation(self._world, self._names.scene, self._traffic, self._answer, self._send)
        simulation.publish_catalogue()
        works: tuple[Callable[[], object], ...] = (lambda: simulation.run(self._stop), self._mischief)
        self._threads = [threading.Thread(target=self._guarded, args=(work,), name="load") for work in works]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        try:
            if error is None:
                self._release(float("inf"))
                self._out.flush(120.0)
                self.check()
        finally:
            self._out.close(10.0 if error is None else 0.5)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            self._failed.append(error)
            self._stop.set()

    def _answer(self, user: str, n: int, context: dict[str, Any]) -> Answered:
        with self._lock:
            self.requests += 1
            request = f"c{self._seed}-{self.requests}"
        chance = random.Random(request)
        items = [self._names.item_id(k) for k in chance.sample(self._world.items, n)]
        arm = chance.choice(ARMS)
        impression = Impression(
            v=SCHEMA_VERSION,
            request_id=request,
            ts=_now_ms(),
            user=user,
            items=[Shown(item, k, 0.5, 1.0 / _WORLD.items, "chaos", False) for k, item in enumerate(items)],
            scene=str(context["scene"]),
            arms=[Assignment("chaos", arm, "user", user, 1, "full")],
            policy=arm,
        )
        if chance.random() < _HELD_BACK:
            self._held_back.append((time.monotonic() + _HELD_BACK_S, impression))
        else:
            self._out.send(IMPRESSIONS, impression, user)
        if chance.random() < _RATED:
            value = float(chance.randint(1, 5))
            rating = Event(ts=_now_ms(), user=user, item=items[0], kind="rating", value=value, request_id=request)
            self._send(EVENTS, rating, user)
        return Answered(items, request, arm)

    def _send(self, topic: Topic, record: Any, key: str | None) -> None:
        if topic is not EVENTS:
            self._out.send(topic, record, key)
            return
        with self._lock:
            self.events += 1
            named = replace(record, event_id=f"e{self._seed}-{self.events}")
            # Half of the producers know nothing of our keys.
            key = None if self._chance.random() < _NO_KEY else key
            twice = self._chance.random() < _TWICE
            self.twice += twice
        for _ in range(1 + twice):
            self._out.send(EVENTS, named, key)

    def _mischief(self) -> None:
        """Sends what was held back; lets a user come, and erases it when readers have its row."""
        due_s = time.monotonic()
        while not self._stop.wait(_TICK_S):
            self._release(time.monotonic())
            if time.monotonic() < due_s:
                continue
            due_s += _DOOMED_EVERY_S
            while self._doomed and self._learned(self._doomed[0]):
                user = self._doomed.popleft()
                self._out.send(USERS, None, user)
                self.erased.append(user)
            user = f"doomed{self._seed}-{self.events}"
            self._out.send(USERS, User(user=user, ts=_now_ms()), user)
            self._click(user)
            self._doomed.append(user)
            # On a topic that nobody but the sink reads.
            self._out.send_bytes(METRICS.name, b"{")
            self.garbage += 1

    def _click(self, user: str) -> None:
        item = self._names.item_id(self._world.items.start)
        self._send(EVENTS, Event(ts=_now_ms(), user=user, item=item, kind="click"), user)

    def _release(self, now_s: float) -> None:
        while self._held_back and self._held_back[0][0] <= now_s:
            _, impression = self._held_back.popleft()
            self._out.send(IMPRESSIONS, impression, impression.user)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
