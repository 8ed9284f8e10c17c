"""What is known of clicks, and the scores that follow from it."""

import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.studies.next_click.batch import Batch
from online_learning.studies.next_click.counts import Counts
from online_learning.studies.next_click.embeddings import Rows, session_inputs
from online_learning.studies.next_click.forward_decay import NEVER
from online_learning.studies.next_click.ranker import Ranker

Ints = NDArray[np.int64]
OUTSIDE = -1e12
"""What is no candidate comes behind all candidates, in the order of its clicks within hours."""
HOUR = 2
"""The half-life of that order: the third of CLICK_HALF_LIVES_MS."""


class Numbering:
    """Dense numbers of ids in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._asked: tuple[Ints, int, Ints] | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def of(self, one: int) -> int:
        """Its number, a new one where it is new."""
        return self._numbers.setdefault(one, len(self._numbers))

    def known(self, ids: list[int]) -> Ints:
        """Numbers i64 [n], -1 where one is not known."""
        return np.array([self._numbers.get(one, -1) for one in ids], np.int64)

    def known_of(self, ids: Ints) -> Ints:
        """The same of an array i64 [n]; the last one is remembered, as a learner's replicas are asked for the same."""
        if self._asked is None or self._asked[0] is not ids or self._asked[1] != len(self):
            self._asked = ids, len(self), self.known(ids.tolist())
        return self._asked[2]


class Knowledge:
    """Counts, what readers clicked lately (history i64 [U, H], oldest first, -1: nothing), network and embeddings."""

    def __init__(
        self,
        articles: Numbering,
        users: Numbering,
        counts: Counts,
        history: Ints,
        ranker: Ranker,
        rows: Rows,
        candidates: int,
    ) -> None:
        self.articles, self.users = articles, users
        self.counts, self.history = counts, history
        self.ranker, self.rows = ranker, rows
        self._one = Batch(1, candidates)
        self._where = np.full(0, -1, np.int32)

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> NDArray[np.float64]:
        """Scores f64 [n] of candidates i64 [n] after the clicks of prefix, oldest first.

        The network's where the counts bring a candidate into question, far below them by recent clicks elsewhere.
        """
        numbers, room = self.articles.known_of(candidates), len(self.counts.first_ms)
        counted = (numbers >= 0) & (numbers < room)
        scores = OUTSIDE + np.where(counted, self.counts.follows[np.where(counted, numbers, 0), HOUR], NEVER)
        session = self.articles.known(prefix)
        session = session[(session >= 0) & (session < room)]
        if not len(session):
            return scores
        found = self._one.fill(0, self.counts, session, self.history_of(user), now_ms, self.scratch())
        if not found:
            return scores
        with torch.inference_mode():
            ranked = self.ranker(session_inputs(self._one, self.rows))[0].numpy()
        place = np.full(room, -1, np.int64)
        place[self._one.articles[0, :found]] = np.arange(found)
        at = np.where(counted, place[np.where(counted, numbers, 0)], -1)
        scores[at >= 0] = ranked[at[at >= 0]]
        return scores

    def history_of(self, user: int) -> Ints:
        """What a reader clicked lately, i64 [q], oldest first."""
        number = int(self.users.known([user])[0])
        if not 0 <= number < len(self.history):
            return np.empty(0, np.int64)
        row = self.history[number]
        return np.asarray(row[(row >= 0) & (row < len(self.counts.first_ms))])

    def scratch(self) -> NDArray[np.int32]:
        """All -1, one an article, to be left as it was."""
        if len(self._where) < len(self.counts.first_ms):
            self._where = np.full(len(self.counts.first_ms), -1, np.int32)
        return self._where
