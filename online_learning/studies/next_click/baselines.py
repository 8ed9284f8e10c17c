"""What the online learner has to beat: recent popularity, co-visitation and nearest sessions."""

from collections import defaultdict, deque

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.next_click.counts import LOOK_BACK
from streams.decay import HOUR_MS, decayed

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class RecentPopularity:
    """Exponentially decayed click counts."""

    def __init__(self, half_life_ms: float = HOUR_MS) -> None:
        self._half_life_ms = half_life_ms
        self._counts: dict[int, tuple[float, int]] = {}

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> Floats:
        """The decayed counts at `now_ms`."""
        value, at_ms = np.array([self._counts.get(one, (0.0, now_ms)) for one in candidates.tolist()]).T
        return np.asarray(value * np.exp2((at_ms - now_ms) / self._half_life_ms))

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """Counts the click."""
        value, at_ms = self._counts.get(article, (0.0, now_ms))
        self._counts[article] = decayed(value, now_ms - at_ms, self._half_life_ms) + 1.0, now_ms


class CoVisitation:
    """Decayed counts of what was clicked after each of the last three clicks, each normalised, nearer ones weighing
    more; recent popularity as the prior."""

    def __init__(self, half_life_ms: float = 6 * HOUR_MS, prior: float = 0.02) -> None:
        self._half_life_ms, self._prior = half_life_ms, prior
        self._popularity = RecentPopularity()
        self._after: dict[int, dict[int, tuple[float, int]]] = defaultdict(dict)

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> Floats:
        """Shares of the transitions from the last clicks, one added to each click's sum."""
        scores = _shares(self._popularity.scores(prefix, user, now_ms, candidates), self._prior)
        place = {article: k for k, article in enumerate(candidates.tolist())}
        for back, before in enumerate(reversed(prefix[-LOOK_BACK:])):
            after = self._after.get(before)
            if not after:
                continue
            weights = {
                article: decayed(value, now_ms - at_ms, self._half_life_ms) for article, (value, at_ms) in after.items()
            }
            total = sum(weights.values()) + 1.0
            for article, weight in weights.items():
                if article in place:
                    scores[place[article]] += weight / total / (back + 1)
        return scores

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """Counts the click and its transitions, 1 / distance each."""
        self._popularity.learn(session, user, article, now_ms, prefix)
        for back, before in enumerate(reversed(prefix[-LOOK_BACK:])):
            value, at_ms = self._after[before].get(article, (0.0, now_ms))
            self._after[before][article] = (
                decayed(value, now_ms - at_ms, self._half_life_ms) + 1.0 / (back + 1),
                now_ms,
            )


class VSkNN:
    """Vector multiplication session kNN (Ludewig & Jannach 2018, section 3.4): of the `sample` latest sessions of each
    article, the `neighbours` that share most with this one, later clicks weighing more, vote for what they clicked;
    recent popularity as the prior."""

    def __init__(self, sample: int = 1000, neighbours: int = 200, prior: float = 1e-3) -> None:
        self._neighbours, self._prior = neighbours, prior
        self._popularity = RecentPopularity()
        self._sessions_of: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=sample))
        self._articles_of: dict[int, list[int]] = {}

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: Ints) -> Floats:
        """The votes; a neighbour's weighs its similarity, its latest shared click, and 1 / sqrt(its length)."""
        scores = _shares(self._popularity.scores(prefix, user, now_ms, candidates), self._prior)
        weight = {article: (n + 1) / len(prefix) for n, article in enumerate(prefix)}
        similar: dict[int, float] = defaultdict(float)
        for article in set(prefix):
            for session in self._sessions_of.get(article, ()):
                similar[session] += weight[article]
        nearest = sorted(similar.items(), key=lambda pair: -pair[1])[: self._neighbours]
        place = {article: k for k, article in enumerate(candidates.tolist())}
        for session, similarity in nearest:
            articles = self._articles_of[session]
            vote = similarity * max(weight.get(article, 0.0) for article in articles) / np.sqrt(len(articles))
            for article in articles:
                if article not in weight and article in place:
                    scores[place[article]] += vote
        return scores

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        """Notes the click in its session."""
        self._popularity.learn(session, user, article, now_ms, prefix)
        self._articles_of.setdefault(session, []).append(article)
        sessions = self._sessions_of[article]
        if session not in sessions:
            sessions.append(session)


def _shares(scores: Floats, of: float) -> Floats:
    return np.asarray(of * scores / max(scores.sum(), 1e-9))
