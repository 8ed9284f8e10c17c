"""The closed loop: users of a world ask, look at the answer, and act on it."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from msgspec import Struct

from streams.records import Event
from streams.simulation.behaviour import Act, choose_user, respond, wander
from streams.simulation.catalogue import Catalogue
from streams.simulation.tally import Snapshot, Tally, metrics
from streams.simulation.truth import Truth
from streams.simulation.world import World
from streams.topics import EVENTS, ITEMS, METRICS, USERS, Topic


class Answered(Struct, frozen=True):
    """An answer as the loop needs it: the items in slot order, the request to name in actions, whose policy it was."""

    items: list[str]
    request_id: str
    arm: str


class NoAnswer(Exception):
    """Whoever answers could not: counted, and the user is gone."""


# (user, n, context) -> answer; raises NoAnswer. Called from several threads.
Answer = Callable[[str, int, dict[str, Any]], Answered]
# (topic, record, key); takes the record for delivery. Called from several threads.
Send = Callable[[Topic, Any, str | None], object]


class Traffic(Struct, frozen=True, kw_only=True):
    """How much happens: `rate` requests a second for `seconds` over `threads`, each for `slots` items; `organic` acts a
    second without a request. A user takes `think_s` on average, and at most four times as long, to act. With `dwell`
    users also tell how long they stayed at what they clicked, though nobody waits for so long here."""

    rate: float
    seconds: float
    slots: int = 10
    threads: int = 4
    organic: float = 0.0
    think_s: float = 0.5
    dwell: bool = False


_METRICS_S = 5.0
_TICK_S = 0.05


class Simulation:
    """Runs a world against whoever answers. `snapshot` may be called from any thread at any time."""

    def __init__(self, world: World, scene: str, traffic: Traffic, answer: Answer, send: Send) -> None:
        self._world, self._traffic, self._answer, self._send = world, traffic, answer, send
        self._catalogue = Catalogue(seed=world.seed, scene=scene)
        self._truth = Truth(world, traffic.slots)
        self._popularity = self._truth.popularity_ctr()
        self._lock = threading.Lock()
        self._arms: dict[str, Tally] = {}
        self._failed = self._empty = self._organic = 0
        self._later: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self._began_s = 0.0

    def snapshot(self) -> Snapshot:
        """What has happened so far."""
        with self._lock:
            seconds = time.monotonic() - self._began_s if self._began_s else 0.0
            return Snapshot(seconds, dict(self._arms), self._failed, self._empty, self._organic)

    def publish_catalogue(self) -> int:
        """Publishes all users and items as of now; returns how many records."""
        ts = _now_ms()
        users = self._catalogue.users(self._world, ts)
        items = [self._catalogue.item(self._world, item, ts) for item in self._world.items]
        for user in users:
            self._send(USERS, user, user.user)
        for item in items:
            self._send(ITEMS, item, item.item)
        return len(users) + len(items)

    def run(self, stop: threading.Event, tell: Callable[[Snapshot], None] = lambda snapshot: None) -> Snapshot:
        """Runs for the traffic's seconds or until `stop`; `tell` hears about it once a second.

        Requests start on time whatever the answers take, as long as a thread is free. The actions of the last requests
        are sent before it returns.
        """
        self._began_s = time.monotonic()
        requests = itertools.count()
        done = threading.Event()
        with ThreadPoolExecutor(self._traffic.threads + 1, "simulate") as pool:
            keeper = pool.submit(self._keep, done, tell)
            askers = [pool.submit(self._ask, requests, stop) for _ in range(self._traffic.threads)]
            try:
                for asker in askers:
                    asker.result()
            finally:
                stop.set()
                done.set()
            keeper.result()
        return self.snapshot()

    def _ask(self, requests: "itertools.count[int]", stop: threading.Event) -> None:
        while not stop.is_set():
            k = next(requests)
            due_s = self._began_s + k / self._traffic.rate
            if k / self._traffic.rate >= self._traffic.seconds or stop.wait(max(0.0, due_s - time.monotonic())):
                return
            # Every request draws for itself: which thread takes it makes no difference.
            self._request(np.random.default_rng([self._world.seed, 1, k]))

    def _request(self, rng: np.random.Generator) -> None:
        user = choose_user(self._world, rng)
        name, scene = self._catalogue.user_id(user), self._catalogue.scene
        try:
            answered = self._answer(name, self._traffic.slots, {"scene": scene})
        except NoAnswer:
            with self._lock:
                self._failed += 1
            return
        truth, popularity = self._truth, self._popularity
        numbers = [self._catalogue.item_number(item) for item in answered.items]
        acts = respond(truth, user, numbers, rng, self._traffic.dwell)
        shown = len(numbers)
        with self._lock:
            if not shown:
                self._empty += 1
                return
            tally = Tally(
                requests=1,
                shown=shown,
                clicks=sum(act.kind == "click" for act in acts),
                expected=float(truth.clicks(user, numbers).sum()),
                best=truth.best_of(user) * shown,
                popularity=popularity * shown,
            )
            self._arms[answered.arm] = self._arms.get(answered.arm, Tally()) + tally
            for act in acts:
                wait_s = min(rng.exponential(self._traffic.think_s), 4 * self._traffic.think_s)
                event = self._event(name, act, _now_ms() + int(wait_s * 1000), answered.request_id)
                heapq.heappush(self._later, (time.monotonic() + wait_s, next(self._order), event))

    def _event(self, user: str, act: Act, ts: int, request_id: str | None) -> Event:
        item, scene = self._catalogue.item_id(act.item), self._catalogue.scene
        return Event(ts=ts, user=user, item=item, kind=act.kind, value=act.value, request_id=request_id, scene=scene)

    def _keep(self, done: threading.Event, tell: Callable[[Snapshot], None]) -> None:
        """Moves the world, sends what is due, and reports, until `done` and all is sent."""
        rng = np.random.default_rng([self._world.seed, 2])
        told = reported = self.snapshot()
        while True:
            last = done.wait(_TICK_S)
            now_s = time.monotonic() - self._began_s
            self._move(now_s)
            if not last:
                self._wander(now_s, rng)
            self._send_due()
            snapshot = self.snapshot()
            if last or snapshot.seconds - told.seconds >= 1.0:
                tell(snapshot)
                told = snapshot
            if last or snapshot.seconds - reported.seconds >= _METRICS_S:
                self._report(reported, snapshot)
                reported = snapshot
            if last:
                break
        while self._later:
            time.sleep(max(0.0, self._later[0][0] - time.monotonic()))
            self._send_due()

    def _move(self, now_s: float) -> None:
        if now_s < (self._world.tick + 1) * self._world.settings.tick_s:
            return
        moved = self._world.advance(now_s)
        truth = Truth(self._world, self._traffic.slots)
        self._popularity = truth.popularity_ctr()
        self._truth = truth
        for item in (*moved.arrived, *moved.retired):
            record = self._catalogue.item(self._world, item, _now_ms())
            self._send(ITEMS, record, record.item)

    def _wander(self, now_s: float, rng: np.random.Generator) -> None:
        while self._organic < int(now_s * self._traffic.organic):
            user = choose_user(self._world, rng)
            for act in wander(self._world, self._truth, user, rng, self._traffic.dwell):
                event = self._event(self._catalogue.user_id(user), act, _now_ms(), None)
                self._send(EVENTS, event, event.user)
            self._organic += 1

    def _send_due(self) -> None:
        while True:
            with self._lock:
                if not self._later or self._later[0][0] > time.monotonic():
                    return
                event = heapq.heappop(self._later)[2]
            self._send(EVENTS, event, event.user)

    def _report(self, before: Snapshot, after: Snapshot) -> None:
        for metric in metrics(before, after, self._world.seed, self._catalogue.scene, _now_ms()):
            self._send(METRICS, metric, metric.process)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
