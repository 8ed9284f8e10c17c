"""A pusher that is killed with -9 under load: every row online in its newest version, and in the history once."""

import time
from pathlib import Path

import pytest

from features.online import UserFeatures
from streams.kafka import producer
from streams.records import FeatureRow
from streams.topics import FEATURES
from tests.emptied import stack_on
from tests.feature_history import user_history
from tests.stacks import RunningStack, wait_until

pytestmark = [pytest.mark.servers, pytest.mark.faults]

USERS, ROUNDS, KILLS = 40, 60, 3


def _kill_at_work(stack: RunningStack, before: int) -> None:
    """Kills the pusher once the history has more rows than `before` the last were sent."""
    repo = stack.settings.features.repo_dir
    wait_until(lambda: len(user_history(repo)) > before, 120, "it is at work")
    restarts = stack.kill("features")
    wait_until(lambda: stack.restarts("features") > restarts, 60, "it is started again")


CONFIG = """
[features]
history_interval_s = 0.5
redis_timeout_ms = 2000.0
"""


def test_kill_9_loses_no_row_and_doubles_none(fresh_kafka: RunningStack, tmp_path: Path) -> None:
    with stack_on(fresh_kafka, tmp_path / "stack", "redis", "features", config=CONFIG) as stack:
        settings = stack.settings.features
        with producer(settings.kafka) as out:
            for version in range(1, ROUNDS + 1):
                killed = version % (ROUNDS // (KILLS + 1)) == 0 and version < ROUNDS
                before = len(user_history(settings.repo_dir)) if killed else 0
                now_ms = time.time_ns() // 1_000_000
                for k in range(USERS):
                    values = {"actions_1h": float(version)}
                    row = FeatureRow(1, "user_stats", {"user": f"u{k}"}, values, version, now_ms, now_ms)
                    out.send(FEATURES, row, f"user_stats|u{k}")
                out.flush(30.0)
                if killed:
                    _kill_at_work(stack, before)
        expected = sorted((f"u{k}", version) for k in range(USERS) for version in range(1, ROUNDS + 1))
        wait_until(lambda: len(user_history(settings.repo_dir)) >= len(expected), 120, "the history is complete")
        assert user_history(settings.repo_dir) == expected
        reader = UserFeatures(settings)
        rows = [reader.read(f"u{k}") for k in range(USERS)]
        assert [row.stats.version for row in rows if row is not None and row.stats is not None] == [ROUNDS] * USERS
        # Feast makes a folder for its metrics, which a killed process leaves: only that of the last life is there.
        assert len([*(stack.state.folder / "tmp" / "features").glob("feast_metrics_*")]) == 1
    assert not (stack.state.folder / "tmp").exists()
