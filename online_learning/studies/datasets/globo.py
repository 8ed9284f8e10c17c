"""Globo.com clicks as rows of ids in time order: clicks are the positives, articles that are active the negatives."""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.datasets.labelled import Labelled
from online_learning.studies.datasets.parquet import open_parquet

FOLDER: Final = "globo"
HOUR_MS: Final = 3_600_000
_CONTEXT: Final = ("environment", "device_group", "os", "region")


def read(data: Path, clicks: int, negatives: int, seed: int, active_ms: int = HOUR_MS) -> Labelled:
    """The first `clicks` clicks in time order, each followed by its negatives.

    Fields: user, article, the article that the user's session clicked before (missing at its start), device and region,
    hour of the day (UTC). A negative is a click's row with another article, drawn evenly from the distinct articles
    that anyone clicked in the `active_ms` before, the click's own left out: what is popular must be learned.

    Raises StudyError where the file is not there.
    """
    names = ["user_id", "session_id", "article_id", "ts_ms", *_CONTEXT]
    file, tables, rows = open_parquet(data / FOLDER / "clicks.parquet", names), [], 0
    for table in file.iter_batches(1 << 16, columns=names):
        tables.append(table)
        rows += table.num_rows
        # The file is in time order.
        if rows >= clicks:
            break
    column = {name: np.concatenate([table[name].to_numpy() for table in tables])[:clicks] for name in names}
    article, ts = column["article_id"].astype(np.int64), column["ts_ms"].astype(np.int64)
    others = _active(article, ts, negatives, seed, active_ms)
    shown = np.concatenate([article[:, None], others], axis=1)
    keep = shown >= 0
    click = np.broadcast_to(np.arange(len(article))[:, None], shown.shape)[keep]
    labels = np.broadcast_to(np.arange(1 + negatives) == 0, shown.shape)[keep]
    ids = {
        "user": column["user_id"][click],
        "article": shown[keep],
        "previous": _previous(column["session_id"], article)[click],
        **{name: column[name][click] for name in _CONTEXT},
        "hour": (ts // HOUR_MS % 24)[click],
    }
    return Labelled(ids, labels)


def _previous(session: NDArray[Any], article: NDArray[np.int64]) -> NDArray[np.int64]:
    """The article clicked before in the same session i64 [n]; -1 where there is none."""
    order = np.argsort(session, kind="stable")
    previous = np.full(len(article), -1, np.int64)
    same = session[order][1:] == session[order][:-1]
    previous[order[1:][same]] = article[order[:-1][same]]
    return previous


def _active(
    article: NDArray[np.int64], ts: NDArray[np.int64], count: int, seed: int, active_ms: int
) -> NDArray[np.int64]:
    """Articles i64 [n, count] drawn with replacement from those clicked in the time before; -1 where none other was."""
    random = np.random.default_rng(seed)
    draws = random.random((len(article), count))
    out = np.full((len(article), count), -1, np.int64)
    # Distinct articles in a list with swap-removal, so that each draw takes the same time.
    clicks_of: dict[int, int] = {}
    active: list[int] = []
    place: dict[int, int] = {}
    first = 0
    for n, (own, now) in enumerate(zip(article.tolist(), ts.tolist(), strict=True)):
        while ts[first] < now - active_ms:
            old = int(article[first])
            first += 1
            clicks_of[old] -= 1
            if not clicks_of[old]:
                last = active.pop()
                if last != old:
                    active[place[old]], place[last] = last, place[old]
                del place[old], clicks_of[old]
        skipped = place.get(own)
        choices = len(active) - (skipped is not None)
        if choices:
            for k in range(count):
                drawn = int(draws[n, k] * choices)
                # The list without its own article: what lies at its place is the last one.
                out[n, k] = active[-1] if drawn == skipped else active[drawn]
        if skipped is None:
            place[own] = len(active)
            active.append(own)
        clicks_of[own] = clicks_of.get(own, 0) + 1
    return out
