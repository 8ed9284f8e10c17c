"""What prequential ranking promises: full ranking before learning, ties against the scorer, nothing of the future."""

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from online_learning.studies.next_click.baselines import CoVisitation, RecentPopularity, VSkNN
from online_learning.studies.next_click.clicks import Clicks
from online_learning.studies.next_click.protocol import Ranks, Scorer, Window, prequential, rank_of
from streams.decay import DAY_MS
from tests.unit.online_learning.studies.next_click.world import FIRST_MS, HOUR_MS, made_clicks

ALL = Window(start_ms=0, from_ms=0, to_ms=1 << 62, every=1)


class Watching:
    """Scores all alike and remembers what it was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int, set[int]]] = []
        self.learned: list[tuple[int, list[int]]] = []

    def scores(self, prefix: list[int], user: int, now_ms: int, candidates: NDArray[np.int64]) -> NDArray[np.float64]:
        self.asked.append((list(prefix), now_ms, set(candidates.tolist())))
        return np.zeros(len(candidates))

    def learn(self, session: int, user: int, article: int, now_ms: int, prefix: list[int]) -> None:
        self.learned.append((article, list(prefix)))


def log(*rows: tuple[int, int, int]) -> Clicks:
    """Clicks of (session, article, ts_ms), the session's number as its user."""
    session, article, ts_ms = np.array(rows, np.int64).T
    return Clicks(session, session, article, ts_ms)


def ranked(clicks: Clicks, window: Window = ALL) -> tuple[Watching, Ranks]:
    watching = Watching()
    return watching, prequential(clicks, {"it": watching}, window)


def test_ties_count_against_the_scorer() -> None:
    _, ranks = ranked(log((1, 10, 0), (2, 11, 1), (3, 12, 2), (1, 11, 3)))
    assert ranks.of["it"].tolist() == [2.0]
    assert rank_of(np.array([3.0, 1.0, 2.0, 2.0]), 2) == 3


def test_a_click_on_an_article_that_is_not_active_is_a_miss() -> None:
    watching, ranks = ranked(log((1, 10, 0), (1, 11, 1), (2, 12, 2), (2, 10, 2 + DAY_MS)))
    assert ranks.of["it"].tolist() == [np.inf, np.inf]
    assert watching.asked == []


def test_candidates_are_the_articles_of_the_day_before_less_those_of_the_session() -> None:
    watching, _ = ranked(log((1, 10, 0), (2, 11, 5), (3, 12, 6), (2, 12, 5 + DAY_MS)))
    assert watching.asked == [([11], 5 + DAY_MS, {12})]


def test_first_clicks_and_repeated_articles_are_learned_but_not_ranked() -> None:
    watching, ranks = ranked(log((1, 10, 0), (1, 10, 1), (2, 10, 2)))
    assert len(ranks) == 0
    assert watching.learned == [(10, []), (10, [10]), (10, [])]


def test_a_click_is_ranked_before_it_is_learned() -> None:
    class Order(Watching):
        def scores(
            self, prefix: list[int], user: int, now_ms: int, candidates: NDArray[np.int64]
        ) -> NDArray[np.float64]:
            assert len(self.learned) == now_ms
            return super().scores(prefix, user, now_ms, candidates)

    clicks = log(*((1 + n % 2, 10 + n // 2, n) for n in range(12)))
    assert len(prequential(clicks, {"it": Order()}, ALL)) == 10


def test_only_the_window_and_the_sample_are_ranked_and_everything_from_the_start_is_learned() -> None:
    clicks = made_clicks(hours=6)
    window = Window(start_ms=FIRST_MS + HOUR_MS, from_ms=FIRST_MS + 4 * HOUR_MS, to_ms=FIRST_MS + 5 * HOUR_MS, every=3)
    watching, ranks = ranked(clicks, window)
    assert len(watching.learned) == len(clicks.between(window.start_ms, window.to_ms))
    assert len(ranks) > 10
    assert all(zlib.crc32(str(one).encode()) % 3 == 0 for one in ranks.session.tolist())
    assert ranks.ts_ms.min() >= window.from_ms
    assert ranks.ts_ms.max() < window.to_ms


@pytest.mark.parametrize("make", [RecentPopularity, CoVisitation, VSkNN])
def test_the_baselines_know_nothing_of_later_clicks(make: type[RecentPopularity | CoVisitation | VSkNN]) -> None:
    clicks = made_clicks(hours=4)
    whole = prequential(clicks, {"it": make()}, ALL)
    cut_ms = int(clicks.ts_ms[len(clicks) // 2])
    part = prequential(clicks.between(0, cut_ms), {"it": make()}, ALL)
    assert 20 < len(part) < len(whole)
    assert whole.of["it"][: len(part)].tolist() == part.of["it"].tolist()


def test_co_visitation_finds_what_follows_and_popularity_does_not() -> None:
    clicks = made_clicks()
    scorers: dict[str, Scorer] = {"popular": RecentPopularity(), "after": CoVisitation(), "nearest": VSkNN()}
    ranks = prequential(clicks, scorers, Window(start_ms=0, from_ms=FIRST_MS + 10 * HOUR_MS, to_ms=1 << 62, every=2))
    hits = {name: float((of <= 3).mean()) for name, of in ranks.of.items()}
    assert hits["after"] > hits["nearest"] > hits["popular"]
