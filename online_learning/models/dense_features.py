"""Dense features: counts of users and items and the position become a few floats, alike in training and serving.

Every feature is 0 where nothing is known, so a missing view needs no imputation; a flag beside each group tells "not
known" from "known to be average". Item counts are those that were logged with the impression (or, serving, the
mirror's), brought to the request's time by `decayed_item_stats`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from online_learning.models.matches import match_names
from online_learning.settings import ModelSettings

ITEM_STATS: Final = (
    "impressions_1h",
    "positives_1h",
    "impressions_1d",
    "positives_1d",
    "rating_sum",
    "rating_count",
)
"""The order of the view `item_stats` in `Shown.features`, `Example.item_features` and every matrix of them."""

USER_STATS: Final = (
    "impressions_1h",
    "actions_1h",
    "impressions_1d",
    "actions_1d",
    "rating_mean",
    "rating_count",
    "last_action_ts",
)
"""The numbers that are read of the view `user_stats`, in the order of a raw user vector."""

_HOUR_MS: Final = 3_600_000.0
_HALF_LIVES_MS: Final = np.array([_HOUR_MS, _HOUR_MS, 24 * _HOUR_MS, 24 * _HOUR_MS, np.inf, np.inf])

# A rate is shrunk towards 0.1 as if it had been seen in 10 impressions: below that a rate is mostly noise.
_PRIOR_RATE: Final = 0.1
_PRIOR_WEIGHT: Final = 10.0
PRIOR_LOGIT: Final = math.log(_PRIOR_RATE / (1 - _PRIOR_RATE))
# A mean rating is shrunk towards the middle of one to five stars; another scale only moves the network's bias.
_MIDDLE_RATING: Final = 3.0
_RATING_WEIGHT: Final = 3.0

USER_FEATURES: Final = (
    "user_known",
    "user_log_impressions_1h",
    "user_log_actions_1h",
    "user_log_impressions_1d",
    "user_log_actions_1d",
    "user_action_logit_1d",
    "user_rating_mean",
    "user_log_rating_count",
    "user_log_minutes_since_action",
)
ITEM_FEATURES: Final = (
    "item_known",
    "item_log_impressions_1h",
    "item_log_impressions_1d",
    "item_positive_logit_1h",
    "item_positive_logit_1d",
    "item_rating_mean",
    "item_log_rating_count",
)
POSITION_FEATURES: Final = ("position_known", "position_inverse", "position_log")


def dense_names(settings: ModelSettings) -> tuple[str, ...]:
    """The columns of a dense row, in order; D is their number."""
    return USER_FEATURES + ITEM_FEATURES + POSITION_FEATURES + match_names(settings.fields)


NO_POSITION: Final = -1


def decayed_item_stats(stats: NDArray[np.floating], at_ms: NDArray[np.integer], now_ms: float) -> NDArray[np.float32]:
    """Item stats [n, 6] that hold at `at_ms` [n], brought to `now_ms`: f32 [n, 6]. The future does not grow them."""
    age_ms = np.maximum(now_ms - np.asarray(at_ms, dtype=np.float64), 0.0)
    decay: NDArray[np.float64] = np.exp2(-age_ms[:, None] / _HALF_LIVES_MS)
    return (stats * decay).astype(np.float32)


def raw_user(values: Mapping[str, Any] | None) -> list[float]:
    """The numbers of a `user_stats` row in the order of USER_STATS; NaN where one is missing or null."""
    if not values:
        return [np.nan] * len(USER_STATS)
    return [_number(values.get(name)) for name in USER_STATS]


def user_features(raw: NDArray[np.float64], now_ms: NDArray[np.integer] | float) -> NDArray[np.float32]:
    """Features f32 [n, 9] of raw user vectors f64 [n, 7] at the requests' times (ms, scalar or [n])."""
    raw = _sane(raw)
    known = ~np.isnan(raw)
    value = np.where(known, raw, 0.0)
    counts = np.maximum(value, 0.0)
    since_ms = np.maximum(now_ms - value[:, 6], 0.0)
    out = np.empty((len(raw), len(USER_FEATURES)), dtype=np.float32)
    out[:, 0] = known.any(axis=1)
    out[:, 1:5] = np.log1p(counts[:, 0:4])
    out[:, 5] = _rate_logit(counts[:, 3], np.maximum(counts[:, 2], counts[:, 3]))
    # The row has a mean, not a sum; shrink by its count as if it were the sum.
    out[:, 6] = np.where(
        known[:, 4], (value[:, 4] - _MIDDLE_RATING) * counts[:, 5] / (counts[:, 5] + _RATING_WEIGHT), 0
    )
    out[:, 7] = np.log1p(counts[:, 5])
    out[:, 8] = np.where(known[:, 6] & (value[:, 6] > 0), np.log1p(since_ms / 60_000.0), 0.0)
    return _bounded(out)


def item_features(stats: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features f32 [n, 7] of item stats [n, 6] already brought to the request's time; a row of NaN is unknown."""
    sane = _sane(stats)
    known = ~np.isnan(sane)
    value = np.where(known, np.maximum(sane, 0.0), 0.0)
    out = np.empty((len(stats), len(ITEM_FEATURES)), dtype=np.float32)
    out[:, 0] = known.any(axis=1)
    out[:, 1] = np.log1p(value[:, 0])
    out[:, 2] = np.log1p(value[:, 2])
    out[:, 3] = _rate_logit(value[:, 1], value[:, 0])
    out[:, 4] = _rate_logit(value[:, 3], value[:, 2])
    out[:, 5] = (value[:, 4] - _MIDDLE_RATING * value[:, 5]) / (value[:, 5] + _RATING_WEIGHT)
    out[:, 6] = np.log1p(value[:, 5])
    return _bounded(out)


def item_stats_matrix(vectors: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Logged vectors as a matrix f64 [n, 6]; one that is empty (organic) or of another length is a row of NaN."""
    missing = [np.nan] * len(ITEM_STATS)
    rows = [vector if len(vector) == len(ITEM_STATS) else missing for vector in vectors]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(ITEM_STATS))


def position_features(positions: NDArray[np.integer]) -> NDArray[np.float32]:
    """Features f32 [n, 3] of positions from 0; below 0 there was none (an organic action)."""
    known = positions >= 0
    place = np.maximum(positions, 0).astype(np.float64)
    columns = (known, known / (1.0 + place), known * np.log1p(place))
    return np.stack(columns, axis=1).astype(np.float32)


def dense_features(
    user: NDArray[np.float32],
    item: NDArray[np.float32],
    positions: NDArray[np.integer],
    matches: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Dense rows f32 [n, D] from user features [1 or n, 9], item features [n, 7], positions [n] and what items have in
    common with the user's recent ones [n, M] (`FieldEncoder.matches`)."""
    users = np.broadcast_to(user, (len(item), user.shape[1]))
    return np.concatenate([users, item, position_features(positions), matches], axis=1)


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def _rate_logit(positives: NDArray[np.float64], trials: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shrunk rate's logit less the prior's: 0 without evidence. More positives than trials count as all of them."""
    hits = np.minimum(positives, trials)
    prior_hits, prior_misses = _PRIOR_RATE * _PRIOR_WEIGHT, (1 - _PRIOR_RATE) * _PRIOR_WEIGHT
    return np.asarray(np.log1p(hits / prior_hits) - np.log1p((trials - hits) / prior_misses))


def _sane(raw: NDArray[np.floating]) -> NDArray[np.float64]:
    """NaN where a number is missing or infinite; no sum or product of two overflows."""
    return np.clip(np.where(np.isfinite(raw), raw, np.nan), -1e15, 1e15).astype(np.float64)


def _bounded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keeps a wild count from an outsider from throwing the network."""
    return np.clip(features, -20.0, 20.0)
