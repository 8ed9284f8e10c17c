"""Clicks that are ranked or learned together."""

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.next_click.candidates import FEATURES, candidates_of
from online_learning.studies.next_click.counts import Counts

Ints = NDArray[np.int64]
POOLED = 8
"""Latest clicks of a session whose embeddings are averaged."""


class Batch:
    """Per row: candidates i64 [B, C] of which the first `found` are there, features f32 [B, C, F], the place of the
    article that was clicked (`targets`), and the session that it followed."""

    def __init__(self, rows: int, candidates: int) -> None:
        self.filled = 0
        self.articles = np.zeros((rows, candidates), np.int64)
        self.features = np.zeros((rows, candidates, FEATURES), np.float32)
        self.found = np.zeros(rows, np.int64)
        self.targets = np.zeros(rows, np.int64)
        self._sessions = [np.empty(0, np.int64)] * rows
        self._histories = [np.empty(0, np.int64)] * rows

    @property
    def full(self) -> bool:
        """Whether the next row has no place."""
        return self.filled == len(self.found)

    def fill(
        self, row: int, counts: Counts, session: Ints, history: Ints, now_ms: int, where: NDArray[np.int32]
    ) -> int:
        """Finds a row's candidates for session i64 [p >= 1] of a reader with history i64 [q]; how many there are."""
        found = int(candidates_of(counts, session, history, now_ms, where, self.articles[row], self.features[row]))
        self.articles[row, found:] = 0
        self.features[row, found:] = 0.0
        self.found[row] = found
        here = set(session.tolist())
        self._sessions[row] = session[-POOLED:]
        self._histories[row] = np.array([one for one in history.tolist() if one not in here], np.int64)
        return found

    def thin(self, row: int, target: int, negatives: int, rng: np.random.Generator) -> None:
        """Keeps the candidate at `target`, which comes first, and `negatives` of the others, drawn evenly."""
        others = rng.permutation(int(self.found[row]) - 1)[:negatives]
        kept = np.concatenate([[target], others + (others >= target)])
        count = len(kept)
        self.articles[row, :count] = self.articles[row, kept]
        self.features[row, :count] = self.features[row, kept]
        self.found[row], self.targets[row] = count, 0

    def bags(self, row: int) -> tuple[Ints, Ints, Ints]:
        """The articles of each vector of a session: its last click, all its clicks, what its reader clicked before."""
        session = self._sessions[row]
        return session[-1:], session, self._histories[row]
