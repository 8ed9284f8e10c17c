"""Latency and throughput of `recommend` in a real Triton, over gRPC, with Feast, shared memory and Kafka behind it.

    python -m tests.benchmarks.serving [--quick] [--json FILE] [--items N] [--instances N]

Every request retrieves from the whole catalogue, reads its user from Feast, ranks some 400 candidates with the online
model, and leaves an impression in Kafka.
"""

import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from msgspec import Struct

from features.store import open_store
from features.writer import OnlineWriter
from infra.settings import Settings
from serving.client import Recommender
from streams.records import ArmDefinition, Experiment, FeatureRow
from tests.benchmarks.report import Options, Report, parse
from tests.serving_world import World, items
from tests.stacks import running_stack

SEED = 1
USERS = 500
N = 10
ONLINE = Experiment(name="all-online", control="online", arms=[ArmDefinition(name="online", policy="online")])


class Load(Struct, frozen=True):
    """What one client does: so many requests, one after the other, or paced so that they start at equal distances."""

    address: str
    requests: int
    per_second: float | None
    seed: int


def fill(settings: Settings, count: int) -> None:
    """A catalogue with statistics and a model, and users with recent items."""
    now_ms = time.time_ns() // 1_000_000
    rng = np.random.default_rng(SEED)
    world = World(Path(settings.serving.shm_dir), settings.serving, seed=SEED)
    world.put_items(items(count))
    for k, (shown, rate) in enumerate(zip(rng.integers(0, 500, count), rng.uniform(0, 0.3, count), strict=True)):
        world.put_stats(f"i{k}", "online", float(shown), float(shown * rate), now_ms)
    rows = {}
    for number in range(USERS):
        user = f"u{number}"
        world.put_user(user)
        recent = [f"i{k}" for k in rng.integers(0, count, 20)]
        values = {"impressions_1d": 50.0, "actions_1d": 5.0, "last_action_ts": now_ms, "recent_items": recent}
        row = FeatureRow(1, "user_stats", {"user": user}, values, version=1, ts=now_ms, available_at=now_ms)
        rows["user_stats", user] = row
    OnlineWriter(open_store(settings.features)).apply(rows)
    world.put_dense()
    world.put_experiments(ONLINE)
    world.publish(learned={0: 1, 1: 1})


def ask(load: Load) -> tuple[float, float, list[float]]:
    """When the first request started and the last ended (s), and the latency of each (s)."""
    rng = np.random.default_rng(load.seed)
    users = [f"u{k}" for k in rng.integers(0, USERS, load.requests)]
    latencies = []
    with Recommender(load.address, timeout_s=30) as client:
        client.recommend(users[0], N)
        begin = time.monotonic()
        for number, user in enumerate(users):
            due = begin + number / load.per_second if load.per_second else 0.0
            time.sleep(max(0.0, due - time.monotonic()))
            start = time.monotonic()
            answer = client.recommend(user, N)
            latencies.append(time.monotonic() - start)
            assert len(answer.items) == N, answer
            assert answer.versions.policy == "online", answer.versions
        return begin, time.monotonic(), latencies


def measure(report: Report, address: str, clients: int, requests: int, per_second: float | None = None) -> None:
    """One row of latency and throughput."""
    loads = [Load(address, requests // clients, per_second, seed) for seed in range(clients)]
    with ProcessPoolExecutor(clients, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(ask, loads))
    latencies_ms = np.concatenate([np.array(result[2]) for result in results]) * 1_000
    took_s = max(result[1] for result in results) - min(result[0] for result in results)
    label = f"{clients} client{'s' * (clients > 1)}" + (f", {per_second:g} requests/s" if per_second else "")
    paced = per_second is not None
    report.add(f"{label}: p50", float(np.percentile(latencies_ms, 50)), "ms", at_most=6.0 if paced else None)
    report.add(f"{label}: p99", float(np.percentile(latencies_ms, 99)), "ms", at_most=25.0 if paced else None)
    if not paced:
        report.add(f"{label}: throughput", len(latencies_ms) / took_s, "requests/s")


def run(options: Options) -> int:
    """Starts the servers, measures, stops them."""
    count = int(options.extra.get("items", 1_000 if options.quick else 10_000))
    instances = int(options.extra.get("instances", 1))
    requests = 200 if options.quick else 4_000
    packages = ("numpy", "numba", "feast", "tritonclient")
    sizes = {"items": count, "users": USERS, "n": N, "instances": instances, "requests": requests}
    report = Report("recommend", options, packages=packages, sizes=sizes, seeds=(SEED,))
    with tempfile.TemporaryDirectory(prefix="freshet-serving-") as folder:
        config = Path(folder) / "freshet.toml"
        config.write_text(f"[serving.triton]\ninstances = {instances}\n")
        with running_stack(Path(folder) / "state", "kafka", "redis", "triton", config=config) as stack:
            fill(stack.settings, count)
            address = stack.settings.serving.triton.grpc
            measure(report, address, 1, requests // 4, per_second=50.0)
            measure(report, address, 1, requests)
            measure(report, address, 4, requests)
    return report.finish()


if __name__ == "__main__":
    sys.exit(run(parse(__doc__ or "", extra={"items": "size of the catalogue", "instances": "of the model"})))
