"""Prequential next-click ranking: each click is ranked before it is learned.

In time order, before a click that is not the first of its session is learned, every scorer ranks all *active* articles:
those that anyone clicked in the 24 hours before, less those that the session has clicked. No negatives are sampled;
ties count against the scorer; a click on an article that is not active is a miss. Only sessions of the sample
crc32(session) % every == 0 are ranked; all are learned from.
"""

import zlib
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.studies.next_click.clicks import Clicks
from streams.decay import DAY_MS

Ints = NDArray[np.int64]
MISS = np.inf


class Scorer(Protocol):
    """What is judged. Both are called in time order; `prefix`: the session's articles so far, oldest first."""

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> NDArray[np.floating]:
        """Scores [n] of candidates i64 [n]; higher is better. Must not change what is learned."""

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """A click on `article`, which is not in `prefix` yet."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What is learned from and what is ranked, ms since 1970: learned from `start_ms`, ranked in [from_ms, to_ms)."""

    start_ms: int
    from_ms: int
    to_ms: int
    every: int = 20


class Ranks(msgspec.Struct, frozen=True):
    """One row a ranked click: its session i64 [n], its ts_ms i64 [n], by scorer the target's rank f64 [n] (1 is best,
    infinite where the article was not active), and how many articles were ranked i64 [n]."""

    session: Ints
    ts_ms: Ints
    of: dict[str, NDArray[np.float64]]
    candidates: Ints

    def __len__(self) -> int:
        return len(self.session)


def in_sample(session: int, every: int) -> bool:
    """Whether a session is ranked."""
    return zlib.crc32(str(session).encode()) % every == 0


def rank_of(scores: NDArray[np.floating], target: int) -> int:
    """The rank of the candidate at position `target`: 1 plus those above it and those beside it."""
    return int((scores >= scores[target]).sum())


def prequential(
    clicks: Clicks,
    scorers: Mapping[str, Scorer],
    window: Window,
    progress: Callable[[int], None] = lambda now_ms: None,
) -> Ranks:
    """The ranks that the scorers gave; all of them see the same clicks in the same order.

    `progress` is told the time of each click before anything is done with it.
    """
    clicks = clicks.between(window.start_ms, window.to_ms)
    prefixes: dict[int, list[int]] = {}
    active: dict[int, int] = {}
    recent: deque[tuple[int, int]] = deque()
    session_of, at, counted = [], [], []
    ranks: dict[str, list[float]] = {name: [] for name in scorers}
    rows = zip(
        *(column.tolist() for column in (clicks.user, clicks.session, clicks.article, clicks.ts_ms)), strict=True
    )
    for user, session, article, now_ms in rows:
        progress(now_ms)
        while recent and recent[0][0] < now_ms - DAY_MS:
            _, old = recent.popleft()
            active[old] -= 1
            if not active[old]:
                del active[old]
        prefix = prefixes.setdefault(session, [])
        if prefix and now_ms >= window.from_ms and article not in prefix and in_sample(session, window.every):
            session_of.append(session)
            at.append(now_ms)
            candidates = np.array([one for one in active if one not in prefix], np.int64)
            counted.append(len(candidates))
            place = np.flatnonzero(candidates == article)
            for name, scorer in scorers.items():
                found = len(place) > 0
                rank = rank_of(scorer.scores(prefix, user, now_ms, candidates), int(place[0])) if found else MISS
                ranks[name].append(rank)
        for scorer in scorers.values():
            scorer.learn(session, user, article, now_ms, list(prefix))
        prefix.append(article)
        recent.append((now_ms, article))
        active[article] = active.get(article, 0) + 1
    return Ranks(
        np.array(session_of, np.int64),
        np.array(at, np.int64),
        {name: np.array(of, np.float64) for name, of in ranks.items()},
        np.array(counted, np.int64),
    )
