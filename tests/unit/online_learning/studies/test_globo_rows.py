"""Globo's clicks become rows whose negatives were active and whose past is the session's own."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from online_learning.studies.datasets import globo


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """800 clicks, ten seconds apart, on articles that change every fifty clicks."""
    random = np.random.default_rng(0)
    n = 800
    article = random.integers(0, 6, n) + 3 * (np.arange(n) // 50)
    columns = {
        "user_id": random.integers(0, 30, n),
        "session_id": random.integers(0, 60, n),
        "article_id": article,
        "ts_ms": 1_000_000 + np.arange(n) * 10_000,
        **{name: random.integers(0, 4, n) for name in ("environment", "device_group", "os", "region")},
    }
    (tmp_path / "globo").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "globo" / "clicks.parquet")
    return tmp_path


def test_negatives_were_clicked_in_the_time_before_and_are_not_the_clicks_own(made: Path) -> None:
    rows = globo.read(made, 500, negatives=3, seed=1, active_ms=600_000)
    clicks = pq.read_table(made / "globo" / "clicks.parquet")
    article, ts = clicks["article_id"].to_numpy(), clicks["ts_ms"].to_numpy()
    click = np.cumsum(rows.labels > 0) - 1
    assert click[-1] == 499
    assert rows.ids["article"][rows.labels > 0].tolist() == article[:500].tolist()
    for row in np.flatnonzero(rows.labels == 0):
        n = click[row]
        before = article[:n][ts[:n] >= ts[n] - 600_000]
        assert rows.ids["article"][row] in before
        assert rows.ids["article"][row] != article[n]
    # Only the very first clicks have nothing to be told from.
    assert (np.bincount(click)[10:] == 4).all()


def test_negatives_are_drawn_evenly_from_what_is_active(made: Path) -> None:
    counts: dict[int, int] = {}
    for seed in range(40):
        rows = globo.read(made, 200, negatives=3, seed=seed, active_ms=300_000)
        last = rows.ids["article"][-3:]
        for article in last.tolist():
            counts[article] = counts.get(article, 0) + 1
    clicks = pq.read_table(made / "globo" / "clicks.parquet")
    article = clicks["article_id"].to_numpy()
    active = set(article[169:199].tolist()) - {int(article[199])}
    assert set(counts) == active
    expected = 120 / len(active)
    assert max(abs(count - expected) for count in counts.values()) < 4 * expected**0.5


def test_the_article_before_is_of_the_same_session(made: Path) -> None:
    rows = globo.read(made, 800, negatives=1, seed=0)
    clicks = pq.read_table(made / "globo" / "clicks.parquet")
    last: dict[int, int] = {}
    found = rows.ids["previous"][rows.labels > 0]
    for n, (session, article) in enumerate(
        zip(clicks["session_id"].to_pylist(), clicks["article_id"].to_pylist(), strict=True)
    ):
        assert found[n] == last.get(session, -1)
        last[session] = article
