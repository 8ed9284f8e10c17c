"""What was clicked, how often lately, and what after what: dense arrays by article, changed by every click."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.next_click.compiled import kernel
from online_learning.studies.next_click.forward_decay import NEVER, hold_top, note_pair, raised
from streams.decay import DAY_MS, HOUR_MS

MINUTE_MS = HOUR_MS // 60
CLICK_HALF_LIVES_MS = (2 * MINUTE_MS, 10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, DAY_MS)
NEXT_HALF_LIVES_MS = (20 * MINUTE_MS, 3 * HOUR_MS, DAY_MS)
PAIR_HALF_LIVES_MS = (HOUR_MS, DAY_MS)
LOOK_BACK = 3
"""Clicks of a session before the current one that are paired with it, as in co-visitation."""


class Counts(NamedTuple):
    """Levels (see forward_decay) by article, A rows; a named tuple, so that kernels take it whole.

    clicks f64 [A, 5]: all clicks; follows f64 [A, 5]: those that are not their session's first; top i64 [5, T]: the
    articles of highest `follows`; first_ms, last_ms i64 [A]: of any click (-1: none). Bounded lists of what was clicked
    right after (`next`), two or three clicks after (`later`) and before (`prior`, by weight 1 / distance), each as ids
    i32 [A, K], levels f64 [A, K, H] and totals f64 [A, H]. totals f64 [5]: `follows` of all articles together.
    """

    clicks: NDArray[np.float64]
    follows: NDArray[np.float64]
    top: NDArray[np.int64]
    first_ms: NDArray[np.int64]
    last_ms: NDArray[np.int64]
    next_ids: NDArray[np.int32]
    next_levels: NDArray[np.float64]
    next_totals: NDArray[np.float64]
    later_ids: NDArray[np.int32]
    later_levels: NDArray[np.float64]
    later_totals: NDArray[np.float64]
    prior_ids: NDArray[np.int32]
    prior_levels: NDArray[np.float64]
    prior_totals: NDArray[np.float64]
    totals: NDArray[np.float64]


def new_counts(articles: int, next_kept: int, pairs_kept: int, top_kept: int) -> Counts:
    """Of `articles` articles, nothing clicked yet; `*_kept` bound the lists."""

    def levels(*shape: int) -> NDArray[np.float64]:
        return np.full((articles, *shape), NEVER)

    def pairs(kept: int, spans: int) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        return np.full((articles, kept), -1, np.int32), levels(kept, spans), levels(spans)

    spans, pair_spans = len(CLICK_HALF_LIVES_MS), len(PAIR_HALF_LIVES_MS)
    return Counts(
        levels(spans),
        levels(spans),
        np.full((spans, top_kept), -1, np.int64),
        np.full(articles, -1, np.int64),
        np.full(articles, -1, np.int64),
        *pairs(next_kept, len(NEXT_HALF_LIVES_MS)),
        *pairs(pairs_kept, pair_spans),
        *pairs(pairs_kept, pair_spans),
        np.full(spans, NEVER),
    )


def grown(counts: Counts, articles: int) -> Counts:
    """The same with room for `articles`."""
    empty = new_counts(articles, counts.next_ids.shape[1], counts.later_ids.shape[1], counts.top.shape[1])
    arrays: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(counts, empty, strict=True)
    for old, new in arrays:
        new[: len(old)] = old
    return empty


@kernel
def note_click(counts, article, prefix, now_ms):  # type: ignore[no-untyped-def]
    """Counts a click on `article` after those of prefix i64 [p], oldest first."""
    follows = len(prefix) > 0
    for h in range(len(CLICK_HALF_LIVES_MS)):
        at = now_ms / CLICK_HALF_LIVES_MS[h]
        counts.clicks[article, h] = raised(counts.clicks[article, h], at)
        if follows:
            counts.follows[article, h] = raised(counts.follows[article, h], at)
            counts.totals[h] = raised(counts.totals[h], at)
            hold_top(counts.top[h], counts.follows, h, article)
    if counts.first_ms[article] < 0:
        counts.first_ms[article] = now_ms
    counts.last_ms[article] = now_ms
    if not follows:
        return
    next_at = np.empty(len(NEXT_HALF_LIVES_MS))
    for h in range(len(next_at)):
        next_at[h] = now_ms / NEXT_HALF_LIVES_MS[h]
    pair_at = np.empty(len(PAIR_HALF_LIVES_MS))
    for h in range(len(pair_at)):
        pair_at[h] = now_ms / PAIR_HALF_LIVES_MS[h]
    for back in range(min(LOOK_BACK, len(prefix))):
        before = prefix[len(prefix) - 1 - back]
        if before == article:
            continue
        weight = -np.log2(back + 1.0)
        if back == 0:
            note_pair(counts.next_ids, counts.next_levels, counts.next_totals, before, article, next_at, 0.0)
        else:
            note_pair(counts.later_ids, counts.later_levels, counts.later_totals, before, article, pair_at, weight)
        note_pair(counts.prior_ids, counts.prior_levels, counts.prior_totals, article, before, pair_at, weight)
