"""What the next-click learner and its replicas promise."""

import copy

import numpy as np
import pytest

from online_learning.studies.next_click.baselines import RecentPopularity
from online_learning.studies.next_click.clicks import Clicks
from online_learning.studies.next_click.learner import NextClickLearner
from online_learning.studies.next_click.protocol import Ranks, Scorer, Window, prequential
from online_learning.studies.next_click.replica import NEVER_AGAIN, Replica
from online_learning.studies.next_click.settings import NextClickSettings
from tests.unit.online_learning.studies.next_click.world import FIRST_MS, HOUR_MS, made_clicks

SMALL = NextClickSettings(candidates=24, next_kept=8, pairs_kept=8, top_kept=16, dim=4, hidden=(16, 8), batch=8)
CLICKS = made_clicks()
FROM_MS = FIRST_MS + 12 * HOUR_MS
WINDOW = Window(start_ms=0, from_ms=FROM_MS, to_ms=1 << 62, every=2)


def passed(scorers: dict[str, Scorer], clicks: Clicks = CLICKS, *replicas: Replica) -> Ranks:
    def advance(now_ms: int) -> None:
        for replica in replicas:
            replica.advance(now_ms)

    return prequential(clicks, scorers, WINDOW, advance)


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    learner = NextClickLearner(SMALL)
    frozen = Replica(learner, FROM_MS, NEVER_AGAIN, features_live=False)
    fresh = Replica(learner, FROM_MS, 1, features_live=True)
    return passed(
        {"online": learner, "frozen": frozen, "fresh": fresh, "popular": RecentPopularity()}, CLICKS, frozen, fresh
    )


def hits(ranks: Ranks, name: str) -> float:
    return float((ranks.of[name] <= 3).mean())


def test_it_learns_what_popularity_cannot(ranks: Ranks) -> None:
    assert len(ranks) > 300
    assert hits(ranks, "online") > hits(ranks, "popular") + 0.1


def test_a_replica_synced_at_every_click_ranks_as_the_learner(ranks: Ranks) -> None:
    assert ranks.of["fresh"].tolist() == ranks.of["online"].tolist()


def test_a_frozen_replica_falls_behind(ranks: Ranks) -> None:
    assert hits(ranks, "frozen") < hits(ranks, "online")


def test_nothing_of_later_clicks_is_used(ranks: Ranks) -> None:
    cut_ms = FROM_MS + 2 * HOUR_MS
    part = passed({"online": NextClickLearner(SMALL)}, CLICKS.between(0, cut_ms))
    assert 50 < len(part) < len(ranks)
    assert part.of["online"].tolist() == ranks.of["online"][: len(part)].tolist()


def test_scoring_changes_nothing() -> None:
    learner = NextClickLearner(SMALL)
    prequential(CLICKS, {"it": learner}, Window(start_ms=0, from_ms=FIRST_MS, to_ms=FIRST_MS + HOUR_MS, every=1 << 40))
    before = copy.deepcopy(learner.known.counts)
    now_ms, candidates = FIRST_MS + HOUR_MS, np.unique(CLICKS.article)
    first = learner.scores([1001, 1002], 5, now_ms, candidates)
    again = learner.scores([1001, 1002], 5, now_ms, candidates)
    assert first.tolist() == again.tolist()
    assert all((old == new).all() for old, new in zip(before, learner.known.counts, strict=True))


def test_articles_and_readers_that_were_never_seen_are_scored_too() -> None:
    learner = NextClickLearner(SMALL)
    assert np.isfinite(learner.scores([1], 2, FIRST_MS, np.array([3, 4]))).all()
    learner.learn(1, 1, 3, FIRST_MS, [])
    learner.learn(1, 1, 5, FIRST_MS, [3])
    scores = learner.scores([3], 99, FIRST_MS, np.array([5, 7_000_000_000]))
    assert scores[0] > scores[1]


def test_room_is_made_for_any_number_of_articles_and_readers() -> None:
    learner = NextClickLearner(SMALL)
    frozen = Replica(learner, 0, 1, features_live=False)
    for n in range(5000):
        frozen.advance(n)
        learner.learn(n // 2, n // 2, 10 * n, n, [10 * (n - 1)] if n % 2 else [])
    frozen.advance(5000)
    scores = frozen.scores([49_980], 1, 5001, np.array([49_990, 10]))
    assert scores[0] > scores[1]
