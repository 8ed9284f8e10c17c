"""How fast the online model learns a simulated world, against popularity, without servers.

    python -m tests.benchmarks.closed_loop [--quick] [--json FILE] [--seeds N]

Users of the world ask; half of them are answered by the online model, half by popularity, each learning from its own
traffic; clicks come after half a second, negatives when the window ends, and both are learned in small batches.
"""

import argparse
import heapq
import json
import os
import platform
from pathlib import Path

import msgspec
import numpy as np
import torch

from online_learning.batches import Batch, Batcher
from online_learning.learner import OnlineLearner
from online_learning.models.dense_features import dense_features, item_features, raw_user, user_features
from online_learning.models.fields import FieldEncoder
from online_learning.settings import LearningSettings
from online_learning.table.version import pack_version
from streams.aggregates import ItemStats, UserStats
from streams.records import SCHEMA_VERSION, Action, Example, Item, Label, LabelState
from streams.settings import TaskSettings
from streams.simulation.behaviour import choose_user, respond
from streams.simulation.catalogue import Catalogue
from streams.simulation.truth import Truth
from streams.simulation.world import World

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating"))
SLOTS, WINDOW_MS, CLICK_MS, STEP_MS, EXPLORE, POOL = 10, 5_000, 500, 20, 0.05, 50


class Loop:
    """One world, two arms."""

    def __init__(self, seed: int, settings: LearningSettings, rate: float) -> None:
        self.world, self.rate = World(seed), rate
        self.names = Catalogue(seed=seed, scene="world")
        self.items: dict[str, Item] = {}
        self.users = {user.user: user.attributes for user in self.names.users(self.world, 0)}
        self.encoder = FieldEncoder(settings.model, self.items.get)
        self.batcher = Batcher(self.encoder, self)
        self.learner = OnlineLearner(settings)
        self.rng = np.random.default_rng([seed, 7])
        self.user_stats: dict[str, UserStats] = {}
        self.item_stats: dict[tuple[str, str], ItemStats] = {}
        self.later: list[tuple[int, int, Example]] = []
        self.order = 0
        self.steps = 0

    def user_attributes(self, user: str) -> dict[str, object] | None:
        return self.users.get(user)

    def run(self, requests: int) -> dict[str, list[float]]:
        """Expected CTR per request of both arms and of what was possible, in order."""
        out: dict[str, list[float]] = {"online": [], "popularity": [], "best": [], "best_single_list": []}
        learn_at = 0
        truth, refreshed = Truth(self.world, SLOTS), -1
        for number in range(requests):
            now = int(number / self.rate * 1_000)
            self.world.advance(now / 1_000)
            if self.world.tick != refreshed:
                truth, refreshed = Truth(self.world, SLOTS), self.world.tick
                for item in self.world.items:
                    name = self.names.item_id(item)
                    if name not in self.items:
                        self.items[name] = self.names.item(self.world, item, now)
            while learn_at < now:
                learn_at += STEP_MS
                self.learn(learn_at)
            user = choose_user(self.world, self.rng)
            arm = "online" if (user * 2654435761) >> 7 & 1 else "popularity"
            self.request(truth, user, arm, number, now)
            out[arm].append(float(truth.clicks(user, self.shown).mean()))
            out["best"].append(truth.best_of(user))
            out["best_single_list"].append(truth.popularity_ctr())
        return out

    def request(self, truth: Truth, user: int, arm: str, number: int, now: int) -> None:
        name = self.names.user_id(user)
        items = [self.names.item_id(item) for item in self.world.items]
        stats = np.array([self.vector(item, arm, now) for item in items])
        mine = self.user_stats.setdefault(name, UserStats())
        used = mine.used(now) if mine.version else None
        if arm == "online":
            users = self.encoder.user_bags(name, self.users[name], mine.recent_items, "world", {"scene": "world"})
            side = self.encoder.combine([users] * len(items), [self.encoder.item_bags(item) for item in items])
            raw = np.array([raw_user(used.values if used else None)])
            dense = dense_features(
                user_features(raw, float(now)),
                item_features(stats),
                np.zeros(len(items), int),
                self.encoder.own_matches(side),
            )
            scores = self.learner.predict(Batch(side, dense, items))[:, 0]
        else:
            scores = (stats[:, 3] + 1) / (stats[:, 2] + 10)
        order = np.argsort(-scores + 1e-9 * self.rng.random(len(scores)), kind="stable")[:POOL].tolist()
        chosen: list[int] = []
        for _ in range(SLOTS):
            place = int(self.rng.integers(len(order))) if self.rng.random() < EXPLORE else 0
            chosen.append(order.pop(place))
        self.shown = [self.world.items[k] for k in chosen]
        clicks = {act.position for act in respond(truth, user, self.shown, self.rng) if act.kind == "click"}
        mine.add_impressions(SLOTS, now)
        for position, k in enumerate(chosen):
            clicked = position in clicks
            for_arm = self.item_stats.setdefault((items[k], arm), ItemStats())
            for_arm.add(now, impressions=1)
            if clicked:
                for_arm.add(now, positives=1)
                mine.add_action(Action(ts=now, user=name, item=items[k], kind="click", event_id="", received_at=0))
            if arm == "online":
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
                    user_features=used,
                    item_features=stats[k].tolist(),
                )
                self.order += 1
                heapq.heappush(self.later, (now + (CLICK_MS if clicked else WINDOW_MS), self.order, example))

    def vector(self, item: str, arm: str, now: int) -> list[float]:
        stats = self.item_stats.get((item, arm))
        if stats is None:
            return [0.0] * 6
        hour, day = 2.0 ** (-(now - stats.at) / 3.6e6), 2.0 ** (-(now - stats.at) / 8.64e7)
        counts = [stats.impressions_1h * hour, stats.positives_1h * hour, stats.impressions_1d * day]
        return [*counts, stats.positives_1d * day, 0.0, 0.0]

    def learn(self, now: int) -> None:
        due: list[Example] = []
        while self.later and self.later[0][0] <= now:
            due.append(heapq.heappop(self.later)[2])
        for start in range(0, len(due), 128):
            chunk = due[start : start + 128]
            labels = np.full((len(chunk), 2), np.nan, np.float32)
            labels[:, 0] = [one.labels["click"].value for one in chunk]
            self.steps += 1
            batch = self.batcher.of_examples(chunk)
            self.learner.learn(batch, labels, np.ones_like(labels), now, pack_version(1, self.steps))


def measure(seed: int, settings: LearningSettings, requests: int, rate: float) -> dict[str, float]:
    """CTR of both arms over all and over the last third, and what was possible."""
    found = Loop(seed, settings, rate).run(requests)
    out: dict[str, float] = {}
    for name, ctr in found.items():
        out[name] = float(np.mean(ctr))
        out[f"{name}_last_third"] = float(np.mean(ctr[-len(ctr) // 3 :]))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a third of the requests")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=30.0)
    parser.add_argument("--requests", type=int, default=2700)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    requests = arguments.requests // 3 if arguments.quick else arguments.requests
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"{requests} requests of {SLOTS} slots at {arguments.rate:g}/s, half of the users per arm")
    results = []
    for seed in range(1, arguments.seeds + 1):
        settings = LearningSettings(tasks=TASKS)
        settings = msgspec.structs.replace(settings, trainer=msgspec.structs.replace(settings.trainer, seed=seed))
        results.append(measure(seed, settings, requests, arguments.rate))
        print(f"seed {seed} ", "  ".join(f"{name} {value:.4f}" for name, value in results[-1].items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
