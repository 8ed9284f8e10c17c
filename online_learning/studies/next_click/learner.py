"""The online next-click learner: counts bring candidates and features, embeddings and a small network rank them.

Everything it knows comes through `learn`, one click after the other; `scores` changes nothing. Counts change at once,
the network and the embeddings once a batch is together.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.studies.next_click.batch import Batch
from online_learning.studies.next_click.candidates import FEATURES
from online_learning.studies.next_click.counts import LOOK_BACK, grown, new_counts, note_click
from online_learning.studies.next_click.embeddings import Embeddings
from online_learning.studies.next_click.knowledge import Knowledge, Numbering
from online_learning.studies.next_click.ranker import Ranker
from online_learning.studies.next_click.settings import NextClickSettings

Ints = NDArray[np.int64]


class NextClickLearner:
    """A scorer of the protocol; `seed` starts network and embeddings.

    `clicks` counts what was learned; article_changed i64 [A] and user_changed i64 [U] are the count at which a row
    changed last, `version` that of network and embeddings: what a replica has to take.
    """

    def __init__(self, settings: NextClickSettings = NextClickSettings(), seed: int = 0) -> None:  # noqa: B008
        self.settings = settings
        self.embeddings = Embeddings(settings, seed)
        self.known = Knowledge(
            Numbering(),
            Numbering(),
            new_counts(1 << 12, settings.next_kept, settings.pairs_kept, settings.top_kept),
            np.full((1 << 12, settings.history), -1, np.int64),
            Ranker(FEATURES, settings.hidden, seed),
            self.embeddings,
            settings.candidates,
        )
        self.clicks = self.version = 0
        self.now_ms = 0
        self.article_changed, self.user_changed = np.zeros(1 << 12, np.int64), np.zeros(1 << 12, np.int64)
        self._optimizer = torch.optim.Adam(self.known.ranker.parameters(), lr=settings.learning_rate)
        self._batch = Batch(settings.batch, settings.candidates)
        self._follows = 0
        self._rng = np.random.default_rng(seed)

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> NDArray[np.float64]:
        """What follows from all that was learned; see Knowledge.scores."""
        return self.known.scores(prefix, user, now_ms, candidates)

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """Learns from a click: what was likely is compared with what was clicked, then the click is counted."""
        known = self.known
        number, reader = known.articles.of(article), known.users.of(user)
        before = np.array([known.articles.of(one) for one in prefix], np.int64)
        self._make_room()
        if prefix and article not in prefix:
            self._follows += 1
            if self._follows % self.settings.learn_every == 0:
                self._compare(number, before, user, now_ms)
        note_click(known.counts, number, before, now_ms)
        row = known.history[reader]
        row[:-1] = row[1:]
        row[-1] = number
        self.clicks += 1
        self.now_ms = now_ms
        self.article_changed[number] = self.user_changed[reader] = self.clicks
        self.article_changed[before[-LOOK_BACK:]] = self.clicks

    def _compare(self, target: int, before: Ints, user: int, now_ms: int) -> None:
        """Takes a click into the batch, if it was among its candidates; learns when the batch is full."""
        batch, known = self._batch, self.known
        history, row = known.history_of(user), batch.filled
        found = batch.fill(row, known.counts, before, history, now_ms, known.scratch())
        place = np.flatnonzero(batch.articles[row, :found] == target)
        if len(place):
            batch.targets[row] = place[0]
            if self.settings.negatives:
                batch.thin(row, int(place[0]), self.settings.negatives, self._rng)
            batch.filled += 1
            if batch.full:
                self._step(now_ms)
                batch.filled = 0

    def _step(self, now_ms: int) -> None:
        """One step of network and embeddings against the softmax over each click's candidates."""
        self.version += 1
        inputs, taken = self.embeddings.inputs(self._batch, now_ms, self.version)
        targets = torch.from_numpy(self._batch.targets[: self._batch.filled])
        loss = torch.nn.functional.cross_entropy(self.known.ranker(inputs), targets)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.embeddings.learn(taken, inputs, self.version)

    def _make_room(self) -> None:
        known = self.known
        while len(known.articles) > len(known.counts.first_ms):
            known.counts = grown(known.counts, 2 * len(known.counts.first_ms))
            self.article_changed = np.concatenate([self.article_changed, np.zeros_like(self.article_changed)])
        while len(known.users) > len(known.history):
            known.history = np.concatenate([known.history, np.full_like(known.history, -1)])
            self.user_changed = np.concatenate([self.user_changed, np.zeros_like(self.user_changed)])
