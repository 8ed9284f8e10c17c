"""How fast the online model learns a simulated world, without servers, and what a setting is worth there.

    python -m tests.benchmarks.closed_loop [--quick] [--json FILE] [--seeds N] [--compare VARIANT,...] [--organic N]

Users of the world ask; half of them are answered by the online model, half by popularity, each learning from its own
traffic; clicks come after half a second, negatives when the window ends, and both are learned in small batches by the
learners of the trainer. Meanwhile users act by themselves (`--organic` acts a second), and those acts count for both.
Every variant of `--compare` sees the same worlds: its figure is the difference in CTR from the default settings, paired
by seed.
"""

import heapq
from collections.abc import Mapping

import msgspec
import numpy as np
import torch

from online_learning.batches import Batch, Batcher
from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.models.dense_features import dense_features, item_features, raw_user, user_features
from online_learning.models.fields import FieldEncoder
from online_learning.settings import LearningSettings, ModelSettings, NegativesSettings
from online_learning.studies.intervals import t_interval
from online_learning.table.version import pack_version
from streams.aggregates import ItemStats, UserStats
from streams.records import SCHEMA_VERSION, Action, Assignment, Example, Label, LabelState, UsedFeatures
from streams.settings import TaskSettings
from streams.simulation.behaviour import choose_user, respond, wander
from streams.simulation.catalogue import Catalogue as Names
from streams.simulation.truth import Truth
from streams.simulation.world import World
from tests.benchmarks.report import Report, parse

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating"))
SLOTS, WINDOW_MS, CLICK_MS, STEP_MS, EXPLORE, POOL = 10, 5_000, 500, 20, 0.05, 50
RATE, REQUESTS = 30.0, 2_700
ARMS = ("online", "popularity")

DEFAULTS = LearningSettings(tasks=TASKS)
VARIANTS: Mapping[str, LearningSettings] = {
    "rate-0.02": LearningSettings(tasks=TASKS, sparse_learning_rate=0.02),
    "rate-0.1": LearningSettings(tasks=TASKS, sparse_learning_rate=0.1),
    "rate-0.2": LearningSettings(tasks=TASKS, sparse_learning_rate=0.2),
    "no-negatives": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=0)),
    "negatives-1": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=1)),
    "negatives-16": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=16)),
    "dcn_v2": LearningSettings(tasks=TASKS, model=ModelSettings(name="dcn_v2")),
    "logistic_regression": LearningSettings(tasks=TASKS, model=ModelSettings(name="logistic_regression")),
}


class Loop:
    """One world, two arms."""

    def __init__(self, seed: int, settings: LearningSettings, organic: float) -> None:
        self.world, self.organic = World(seed), organic
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
        if arm == "online":
            scores = self.scores(name, mine, used, items, stats, now)
        else:
            scores = (stats[:, 3] + 1) / (stats[:, 2] + 10)
        order = np.argsort(-scores + 1e-9 * self.explore.random(len(scores)), kind="stable")[:POOL].tolist()
        chosen = [
            order.pop(int(self.explore.integers(len(order))) if self.explore.random() < EXPLORE else 0)
            for _ in range(SLOTS)
        ]
        shown = [self.world.items[k] for k in chosen]
        clicks = {act.position for act in respond(truth, user, shown, self.acts) if act.kind == "click"}
        mine.add_impressions(SLOTS, now)
        for position, k in enumerate(chosen):
            clicked = position in clicks
            self.count(items[k], arm, now, impressions=1, positives=int(clicked))
            if clicked:
                mine.add_action(Action(ts=now, user=name, item=items[k], kind="click", event_id="", received_at=0))
            example = Example(
                SCHEMA_VERSION,
                f"r{number}/{position}",
                0,
                now,
                name,
                items[k],
                {"click": Label(LabelState.OBSERVED, float(clicked))},
                request_id=f"r{number}",
                position=position,
                scene="world",
                arms=[Assignment("closed-loop", arm, "user", name, 1, "")],
                user_features=used,
                item_features=stats[k].tolist(),
            )
            self.keep(now + (CLICK_MS if clicked else WINDOW_MS), example)
        return shown

    def scores(
        self, name: str, mine: UserStats, used: UsedFeatures | None, items: list[str], stats: np.ndarray, now: int
    ) -> np.ndarray:
        """The online model's click probabilities for all items."""
        attributes = self.catalogue.user_attributes(name)
        users = self.encoder.user_bags(name, attributes, mine.recent_items, "world", {"scene": "world"})
        side = self.encoder.combine([users] * len(items), [self.encoder.item_bags(item) for item in items])
        dense = dense_features(
            user_features(np.array([raw_user(used.values if used else None)]), float(now)),
            item_features(stats),
            np.zeros(len(items), int),
            self.encoder.own_matches(side),
        )
        return self.learners.online.predict(Batch(side, dense, items))[:, 0]

    def wander(self, truth: Truth, now: int) -> None:
        """What users did by themselves until now: it is learned at once, and counts for both arms."""
        while self.wandered < int(now / 1_000 * self.organic):
            self.wandered += 1
            user = choose_user(self.world, self.visits)
            name = self.names.user_id(user)
            mine = self.user_stats.setdefault(name, UserStats())
            for act in wander(self.world, truth, user, self.visits):
                item = self.names.item_id(act.item)
                used = mine.used(now) if mine.version else None
                mine.add_action(Action(ts=now, user=name, item=item, kind=act.kind, event_id="", received_at=0))
                if act.kind != "click":
                    continue
                for arm in ARMS:
                    self.count(item, arm, now, positives=1)
                example = Example(
                    SCHEMA_VERSION,
                    f"w{self.wandered}",
                    0,
                    now,
                    name,
                    item,
                    {"click": Label(LabelState.OBSERVED, 1.0)},
                    scene="world",
                    user_features=used,
                    organic=True,
                )
                self.keep(now, example)

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
        for start in range(0, len(due), DEFAULTS.trainer.max_batch):
            self.steps += 1
            chunk = due[start : start + DEFAULTS.trainer.max_batch]
            self.learners.learn(chunk, now, pack_version(1, self.steps))


def measure(seed: int, settings: LearningSettings, requests: int, organic: float) -> dict[str, float]:
    """CTR of both arms over the whole and over the last third, and what was possible."""
    out: dict[str, float] = {}
    for name, ctr in Loop(seed, settings, organic).run(requests).items():
        out[name] = float(np.mean(ctr))
        out[f"{name}, last third"] = float(np.mean(ctr[-len(ctr) // 3 :]))
    return out


def main() -> None:
    options = parse(
        __doc__ or "",
        extra={
            "seeds": "how many worlds, 5",
            "compare": f"variants beside the defaults: {', '.join(VARIANTS)}",
            "organic": "acts a second that no request led to, 5",
        },
    )
    chosen = [name for name in options.extra.get("compare", "").split(",") if name]
    if unknown := set(chosen) - set(VARIANTS):
        raise SystemExit(f"--compare {', '.join(sorted(unknown))}: must be of {', '.join(VARIANTS)}")
    organic = float(options.extra.get("organic", "5"))
    seeds = range(1, 1 + int(options.extra.get("seeds", "2" if options.quick else "5")))
    requests = REQUESTS // 3 if options.quick else REQUESTS
    torch.set_num_threads(1)
    report = Report(
        "closed loop",
        options,
        packages=("torch", "numpy"),
        sizes={"requests": requests, "requests a second": RATE, "slots": SLOTS, "organic acts a second": organic},
        seeds=tuple(seeds),
    )

    def over_seeds(settings: LearningSettings) -> list[dict[str, float]]:
        return [measure(seed, settings, requests, organic) for seed in seeds]

    default = over_seeds(DEFAULTS)
    for name in default[0]:
        found = t_interval([one[name] for one in default])
        report.add(f"CTR, {name}", found.mean, "", note=f"± {found.half:.4f} over worlds")
    for variant in chosen:
        others = over_seeds(VARIANTS[variant])
        for name in ("online", "online, last third"):
            change = t_interval([a[name] - b[name] for a, b in zip(others, default, strict=True)])
            report.add(f"CTR, {name}: {variant} less default", change.mean, "", note=f"± {change.half:.4f}")
    raise SystemExit(report.finish())


if __name__ == "__main__":
    main()
