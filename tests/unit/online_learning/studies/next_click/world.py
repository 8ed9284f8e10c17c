"""A made world of news: articles come and fade, and each is mostly followed by its few relatives."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from online_learning.studies.next_click.clicks import Clicks, day_ms

FIRST_MS = day_ms("2020-03-01")
HOUR_MS = 3_600_000


def made_clicks(hours: int = 20, sessions_per_hour: int = 90, alive: int = 40, seed: int = 7) -> Clicks:
    """Sessions of two to four clicks: the first by popularity, then a relative of the last click (70%) or any article.

    Two articles go and two come each hour; relatives are those next to each other.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int]] = []
    for hour in range(hours):
        articles = 1000 + 2 * hour + np.arange(alive)
        weights = 1.0 / (1 + rng.permutation(alive))
        weights /= weights.sum()
        for one in range(sessions_per_hour):
            session = 10_000 * (hour + 1) + one
            at_ms = FIRST_MS + hour * HOUR_MS + int(rng.integers(HOUR_MS))
            at, seen = int(rng.choice(alive, p=weights)), []
            for _ in range(int(rng.integers(2, 5))):
                if at not in seen:
                    rows.append((int(rng.integers(300)), session, int(articles[at]), at_ms))
                    seen.append(at)
                at_ms += int(rng.integers(1, 90_000))
                near = rng.random() < 0.7
                at = (at + int(rng.integers(1, 4))) % alive if near else int(rng.choice(alive, p=weights))
    user, of, article, ts_ms = np.array(rows, np.int64).T
    order = np.argsort(ts_ms, kind="stable")
    return Clicks(user[order], of[order], article[order], ts_ms[order])


def write(clicks: Clicks, path: Path) -> Path:
    """As a file of the format, with a column of the future that nobody may read."""
    columns = {
        "user_id": clicks.user.astype(np.int32),
        "session_id": clicks.session,
        "session_size": np.full(len(clicks), 9, np.int32),
        "article_id": clicks.article.astype(np.int32),
        "ts_ms": clicks.ts_ms,
    }
    pq.write_table(pa.table(columns), path)
    return path
