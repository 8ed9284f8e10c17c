"""What a run of `freshet chaos` does: how much of it, and under which settings."""

from typing import Final

import msgspec

PARTS: Final = ("failpoints", "kills", "takeover", "disk")
NEEDS_A_CROWD: Final = frozenset({"replica.table-grown"})
"""Failpoints that only tables larger than their first size reach."""

# Windows of seconds, so that examples are closed while it runs; checkpoints twice a second, batches of the sink three
# times and dense bundles five times, so that kills meet them.
# Restarts do not wait longer and longer: here a crash is not a fault that repeats itself.
CONFIG: Final = """
[streams.join]
window_s = 3.0
lateness_s = 1.0
idle_s = 0.5
negative_rate = 0.5

[learning.trainer]
arm = "online"
checkpoint_interval_s = 0.5
checkpoint_dir = "{checkpoints}"
dense_interval_ms = 200.0

[serving.clickhouse]
flush_interval_s = 0.3

[features]
history_interval_s = 0.5
redis_timeout_ms = 2000.0

[local]
restart_first_s = 0.1
restart_max_s = 0.1
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`parts`: which of PARTS, in their order. `hits`: how often each failpoint strikes; 0: once, and without
    `points` only at a seeded choice of them that has every process and every kind of step. `kills`: random kills.
    `rate`: requests a second. `crowd`: users that come once before the load, so that the tables outgrow their first
    size. `budget_s`: the longest time from a kill to the next applied frame. `points`: the failpoints that strike
    (empty: all)."""

    seed: int = 0
    parts: tuple[str, ...] = PARTS
    hits: int = 5
    kills: int = 200
    rate: float = 15.0
    crowd: int = 4_500
    budget_s: float = 30.0
    points: tuple[str, ...] = ()

    @property
    def feast(self) -> bool:
        """Whether the feature pusher takes part: where its own places are struck, in the shortest form only those that
        are named."""
        struck = any(name.startswith("features.") for name in self.points) if self.points else self.hits > 0
        return "failpoints" in self.parts and struck


def quick(seed: int, points: tuple[str, ...] = ()) -> Plan:
    """All of it in its shortest form, or of the failpoints only `points`. It runs among other tests, so it does not
    judge how long anything took."""
    plan = Plan(seed=seed, hits=0, kills=6, rate=15.0, budget_s=240.0, points=points)
    return plan if NEEDS_A_CROWD.intersection(points) else msgspec.structs.replace(plan, crowd=0)
