"""A simulated world whose users ask, without servers: half are answered by the online model, half by popularity.

Each arm learns from its own traffic; what is shown is seen at once, clicks come after half a second, negatives when the
window ends, and all are learned in small batches by the learners of the trainer. Meanwhile users act by themselves, and
those acts count for both. Where a task of that name is learned, users also tell their `dwell`, half a second after the
click.
"""

import heapq
import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.batches import Batch, Batcher
from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.models.dense_features import dense_features, item_features, raw_user, user_features
from online_learning.models.fields import Bags, FieldEncoder, Side
from online_learning.settings import LearningSettings
from online_learning.table.version import pack_version
from streams.aggregates import ItemStats, UserStats
from streams.labels import negative_kept
from streams.records import (
    SCHEMA_VERSION,
    Action,
    Assignment,
    Example,
    Impression,
    Label,
    LabelState,
    Shown,
    UsedFeatures,
)
from streams.simulation.behaviour import choose_user, respond, wander
from streams.simulation.catalogue import Catalogue as Names
from streams.simulation.truth import STAY_SPREAD, Truth
from streams.simulation.world import World
from tests.benchmarks.finder import Finder

SLOTS, CLICK_MS, STEP_MS, EXPLORE, POOL = 10, 500, 20, 0.05, 50
RATE = 30.0
ARMS = ("online", "popularity")


class Stay(NamedTuple):
    """How long somebody stayed (s) whom the online model learns from, and what the world knows of it: the time to
    expect, whether the item's category is a favourite of the user's, and the item's quality."""

    ts: int
    seconds: float
    expected: float
    favourite: bool
    quality: float


class Loop:
    """One world, two arms. `organic`: acts a second that no request led to. `retrieve`: how many candidates the online
    arm ranks of each source, the nearest by the settings' retrieval and the most popular; 0: all items."""

    def __init__(self, seed: int, settings: LearningSettings, organic: float, retrieve: int = 0) -> None:
        self.world, self.organic, self.retrieve = World(seed), organic, retrieve
        self.settings, self.dwell = settings, any(task.name == "dwell" for task in settings.tasks)
        self.window_ms = settings.join.window_ms
        self.names = Names(seed=seed, scene="world")
        self.catalogue = Catalogue()
        for user in self.names.users(self.world, 0):
            self.catalogue.put_user(user.user, user)
        self.encoder = FieldEncoder(settings.model, self.catalogue.item)
        self.batcher = Batcher(self.encoder, self.catalogue)
        trainer = msgspec.structs.replace(settings.trainer, seed=seed)
        self.learners = Learners(msgspec.structs.replace(settings, trainer=trainer), self.catalogue)
        # Who comes does not hang on what they were shown, so that variants see the same visitors.
        self.visits, self.acts, self.explore = (np.random.default_rng([seed, k]) for k in (7, 8, 9))
        self.user_stats: dict[str, UserStats] = {}
        self.item_stats: dict[tuple[str, str], ItemStats] = {}
        self.later: list[tuple[int, int, Example]] = []
        self.order = self.steps = self.wandered = 0
        self.stays: list[Stay] = []
        self.found: list[float] = []
        self.finder: Finder | None = None

    def run(self, requests: int) -> dict[str, list[float]]:
        """Expected CTR per request of both arms and of what was possible, in order."""
        out: dict[str, list[float]] = {name: [] for name in (*ARMS, "best", "best single list")}
        learned_to, refreshed = 0, -1
        truth = Truth(self.world, SLOTS)
        for number in range(requests):
            now = int(number / RATE * 1_000)
            self.world.advance(now / 1_000)
            if self.world.tick != refreshed:
                truth, refreshed = Truth(self.world, SLOTS), self.world.tick
                for item in self.world.items:
                    name = self.names.item_id(item)
                    if self.catalogue.item(name) is None:
                        self.catalogue.put_item(name, self.names.item(self.world, item, now))
                        self.finder = None
            self.wander(truth, now)
            while learned_to < now:
                learned_to += STEP_MS
                self.learn(learned_to)
            user = choose_user(self.world, self.visits)
            arm = ARMS[0] if (user * 2654435761) >> 7 & 1 else ARMS[1]
            shown = self.answer(truth, user, arm, number, now)
            out[arm].append(float(truth.clicks(user, shown).mean()))
            out["best"].append(truth.best_of(user))
            out["best single list"].append(truth.popularity_ctr())
        return out

    def answer(self, truth: Truth, user: int, arm: str, number: int, now: int) -> list[int]:
        """Shows a user a list by the arm's ranking, counts what they do and keeps it to be learned in its time."""
        name = self.names.user_id(user)
        items = [self.names.item_id(item) for item in self.world.items]
        stats = np.array([self.vector(item, arm, now) for item in items])
        mine = self.user_stats.setdefault(name, UserStats())
        used = mine.used(now) if mine.version else None
        popularity = (stats[:, 3] + 1) / (stats[:, 2] + 10)
        if arm == "online":
            bags = self.user_bags(name, mine)
            scores = self.scores(bags, used, items, stats, now)
            if self.retrieve:
                nearest = self.nearest(bags, items)
                best = np.argsort(-truth.attraction[user])[:SLOTS]
                self.found.append(float(np.isin(best, nearest).mean()))
                missed = np.ones(len(items), dtype=np.bool_)
                missed[nearest] = missed[np.argsort(-popularity, kind="stable")[: self.retrieve]] = False
                scores = np.where(missed, -np.inf, scores)
        else:
            scores = popularity
        order = np.argsort(-scores + 1e-9 * self.explore.random(len(scores)), kind="stable")
        order = order[scores[order] > -np.inf][:POOL].tolist()
        chosen = [
            order.pop(int(self.explore.integers(len(order))) if self.explore.random() < EXPLORE else 0)
            for _ in range(SLOTS)
        ]
        shown = [self.world.items[k] for k in chosen]
        acts = respond(truth, user, shown, self.acts, self.dwell)
        clicks = {act.position for act in acts if act.kind == "click"}
        stayed = {act.position: act.value for act in acts if act.kind == "dwell"}
        arms = [Assignment("closed-loop", arm, "user", name, 1, "")]
        self.see(number, now, name, [items[k] for k in chosen], arms, used, stats[chosen])
        mine.add_impressions(SLOTS, now)
        for position, k in enumerate(chosen):
            clicked = position in clicks
            self.count(items[k], arm, now, impressions=1, positives=int(clicked))
            if clicked:
                mine.add_action(Action(ts=now, user=name, item=items[k], kind="click", event_id="", received_at=now))
            said = clicked or negative_kept(f"r{number}/{position}", self.settings.join.negative_rate)
            example = Example(
                SCHEMA_VERSION,
                f"r{number}/{position}",
                0,
                now,
                name,
                items[k],
                {"click": Label(LabelState.OBSERVED, float(clicked)) if said else Label(LabelState.CENSORED)},
                request_id=f"r{number}",
                position=position,
                scene="world",
                arms=arms,
                user_features=used,
                item_features=stats[k].tolist(),
                negative_rate=self.settings.join.negative_rate,
            )
            if said:
                self.keep(now + (CLICK_MS if clicked else self.window_ms), example)
            if (seconds := stayed.get(position)) is not None:
                self.keep(now + 2 * CLICK_MS, told(example, seconds, revision=1))
                if arm == "online":
                    self.stay(truth, user, shown[position], seconds, now)
        return shown

    def see(
        self,
        number: int,
        now: int,
        user: str,
        items: list[str],
        arms: list[Assignment],
        used: UsedFeatures | None,
        stats: NDArray[np.float64],
    ) -> None:
        """Lets the learners know what is shown."""
        shown = [
            Shown(item, position, 0.0, 1.0, "", False, vector.tolist())
            for position, (item, vector) in enumerate(zip(items, stats, strict=True))
        ]
        seen = Impression(SCHEMA_VERSION, f"r{number}", now, user, shown, scene="world", arms=arms, user_features=used)
        self.learners.see([seen], now)

    def user_bags(self, name: str, mine: UserStats) -> Bags:
        attributes = self.catalogue.user_attributes(name)
        return self.encoder.user_bags(name, attributes, mine.recent_items, "world", {"scene": "world"})

    def scores(
        self, user: Bags, used: UsedFeatures | None, items: list[str], stats: NDArray[np.float64], now: int
    ) -> NDArray[np.float32]:
        """The online model's click probabilities for all items."""
        side = self.encoder.combine([user] * len(items), [self.encoder.item_bags(item) for item in items])
        dense = dense_features(
            user_features(np.array([raw_user(used.values if used else None)]), float(now)),
            item_features(stats),
            np.zeros(len(items), int),
            self.encoder.own_matches(side),
        )
        return self.learners.online.predict(Batch(side, dense, items))[:, 0]

    def nearest(self, user: Bags, items: list[str]) -> NDArray[np.int64]:
        """The items that retrieval finds for a user."""
        if self.finder is None:
            self.finder = Finder(self.settings, self.encoder, items)
        scores = self.finder.scores(self.learners, [Side.of([user], self.encoder.user_spaces)])[0]
        return np.argsort(-scores, kind="stable")[: self.retrieve]

    def wander(self, truth: Truth, now: int) -> None:
        """What users did by themselves until now: it is learned at once, and counts for both arms."""
        while self.wandered < int(now / 1_000 * self.organic):
            self.wandered += 1
            user = choose_user(self.world, self.visits)
            name = self.names.user_id(user)
            mine = self.user_stats.setdefault(name, UserStats())
            for act in wander(self.world, truth, user, self.visits, self.dwell):
                item = self.names.item_id(act.item)
                used = mine.used(now) if mine.version else None
                mine.add_action(Action(ts=now, user=name, item=item, kind=act.kind, event_id="", received_at=now))
                if act.kind not in ("click", "dwell"):
                    continue
                example = Example(
                    SCHEMA_VERSION,
                    f"w{self.wandered}-{act.kind}",
                    0,
                    now,
                    name,
                    item,
                    {"click": Label(LabelState.OBSERVED, 1.0)} if act.kind == "click" else {},
                    scene="world",
                    user_features=used,
                    organic=True,
                )
                if act.value is not None:
                    example = told(example, act.value)
                    self.stay(truth, user, act.item, act.value, now)
                else:
                    for arm in ARMS:
                        self.count(item, arm, now, positives=1)
                self.keep(now, example)

    def stay(self, truth: Truth, user: int, item: int, seconds: float, now: int) -> None:
        column = item - self.world.first_item
        # The mean of the lognormal that the seconds are drawn from.
        expected = truth.median_stay_s(user, item) * math.exp(STAY_SPREAD**2 / 2)
        favourite = bool(np.isin(self.world.category[column], self.world.favourites[user]))
        self.stays.append(Stay(now, seconds, expected, favourite, float(self.world.quality[column])))

    def count(self, item: str, arm: str, now: int, impressions: int = 0, positives: int = 0) -> None:
        self.item_stats.setdefault((item, arm), ItemStats()).add(now, impressions=impressions, positives=positives)

    def vector(self, item: str, arm: str, now: int) -> list[float]:
        stats = self.item_stats.get((item, arm))
        if stats is None:
            return [0.0] * 6
        hour, day = 2.0 ** (-(now - stats.at) / 3.6e6), 2.0 ** (-(now - stats.at) / 8.64e7)
        counts = [stats.impressions_1h * hour, stats.positives_1h * hour, stats.impressions_1d * day]
        return [*counts, stats.positives_1d * day, 0.0, 0.0]

    def keep(self, until: int, example: Example) -> None:
        self.order += 1
        heapq.heappush(self.later, (until, self.order, example))

    def learn(self, now: int) -> None:
        due: list[Example] = []
        while self.later and self.later[0][0] <= now:
            due.append(heapq.heappop(self.later)[2])
        for start in range(0, len(due), self.settings.trainer.max_batch):
            self.steps += 1
            chunk = due[start : start + self.settings.trainer.max_batch]
            self.learners.learn(chunk, now, pack_version(1, self.steps))
        self.learners.learn_rest(pack_version(1, self.steps))


def told(example: Example, seconds: float, revision: int = 0) -> Example:
    """The example after its user has said how long they stayed."""
    labels = {**example.labels, "dwell": Label(LabelState.OBSERVED, seconds)}
    return msgspec.structs.replace(example, labels=labels, revision=revision)
