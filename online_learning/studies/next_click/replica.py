"""A copy of the learner that is brought up to date at intervals: what serving knows when updates are late."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.next_click.counts import Counts, grown
from online_learning.studies.next_click.embeddings import EmbeddingsCopy
from online_learning.studies.next_click.knowledge import Knowledge
from online_learning.studies.next_click.learner import NextClickLearner

Ints = NDArray[np.int64]
NEVER_AGAIN = 0
"""The interval of a replica that is synced once."""


class Replica:
    """A scorer that learns nothing itself.

    It takes the learner's state at `from_ms` and then at every multiple of `interval_ms` after it, before the first
    click at or after that time is learned; `advance` must be told of every click. `features_live`: only network and
    embeddings lag, the counts are read as they are (a feature store that is fresh beside a model that is not). Else
    the counts lag too, and are read as of their newest click: decayed further they would tell of the delay only.
    """

    def __init__(self, learner: NextClickLearner, from_ms: int, interval_ms: int, *, features_live: bool) -> None:
        self._learner, self._from_ms, self._interval_ms = learner, from_ms, interval_ms
        self._features_live = features_live
        self._period = -1
        self._clicks = 0
        self._as_of_ms = 0
        self._rows = EmbeddingsCopy(learner.embeddings.table.dim)
        known = learner.known
        self._known = Knowledge(
            known.articles,
            known.users,
            known.counts if features_live else copy.deepcopy(known.counts),
            known.history if features_live else known.history.copy(),
            copy.deepcopy(known.ranker),
            self._rows,
            learner.settings.candidates,
        )

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> NDArray[np.float64]:
        """What follows from the state of the last sync."""
        if self._features_live:
            self._known.counts, self._known.history = self._learner.known.counts, self._learner.known.history
            return self._known.scores(prefix, user, now_ms, candidates)
        return self._known.scores(prefix, user, min(now_ms, self._as_of_ms), candidates)

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """Nothing: what it knows comes from the learner."""

    def advance(self, now_ms: int) -> None:
        """Syncs when `now_ms` is the first in a new interval; the learner has learned all clicks before it."""
        if now_ms < self._from_ms:
            return
        period = (now_ms - self._from_ms) // self._interval_ms if self._interval_ms != NEVER_AGAIN else 0
        if period > self._period:
            self._period = period
            self._sync()

    def _sync(self) -> None:
        learner = self._learner
        self._known.ranker.load_state_dict(learner.known.ranker.state_dict())
        self._rows.sync(learner.embeddings.table, learner.version)
        if not self._features_live:
            live = learner.known
            articles = np.flatnonzero(learner.article_changed > self._clicks)
            users = np.flatnonzero(learner.user_changed > self._clicks)
            self._known.counts = _taken(self._known.counts, live.counts, articles)
            mine = self._known.history
            if len(mine) < len(live.history):
                mine = np.concatenate([mine, np.full((len(live.history) - len(mine), mine.shape[1]), -1)])
                self._known.history = mine
            mine[users] = live.history[users]
            self._as_of_ms = learner.now_ms
        self._clicks = learner.clicks


def _taken(mine: Counts, live: Counts, articles: Ints) -> Counts:
    """Counts with the rows of `articles`, and what is not kept by article, as they are in `live`."""
    if len(mine.first_ms) < len(live.first_ms):
        mine = grown(mine, len(live.first_ms))
    arrays: Iterable[tuple[str, NDArray[Any], NDArray[Any]]] = zip(Counts._fields, mine, live, strict=True)
    for name, to, of in arrays:
        if name in ("top", "totals"):
            to[:] = of
        else:
            to[articles] = of[articles]
    return mine
