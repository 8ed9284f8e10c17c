"""Counts that the streams keep per user, and per item and arm, as pure values; rows for the feature store."""

import math
from typing import Any, Final

from msgspec import Struct, field

from streams.decay import DAY_MS, HOUR_MS, added, decayed
from streams.records import SCHEMA_VERSION, Action, FeatureRow, UsedFeatures

USER_STATS: Final = "user_stats"
ITEM_STATS: Final = "item_stats"
USER_PROFILE: Final = "user_profile"
RATING: Final = "rating"
RECENT_ITEMS: Final = 20


class UserStats(Struct, array_like=True):
    """What one user saw and did; the decayed counts hold at `at` (ms). `version` counts the changes."""

    impressions_1h: float = 0.0
    actions_1h: float = 0.0
    impressions_1d: float = 0.0
    actions_1d: float = 0.0
    rating_sum: float = 0.0
    rating_count: int = 0
    last_action_ts: int = 0
    recent_items: list[str] = field(default_factory=list)
    at: int = 0
    version: int = 0
    available_at: int = 0

    def add_impressions(self, count: int, ts: int) -> None:
        """Counts `count` items shown at `ts` (ms)."""
        self._bring(ts, float(count), 0.0)

    def add_action(self, action: Action) -> None:
        """Counts one action; a rating's value goes into the mean, the item to the head of the recent ones."""
        ts = action.counted_at
        self._bring(ts, 0.0, 1.0)
        if action.kind == RATING and action.value is not None:
            self.rating_sum += action.value
            self.rating_count += 1
        if ts >= self.last_action_ts:
            self.last_action_ts = ts
            if not self.recent_items or self.recent_items[0] != action.item:
                others = [item for item in self.recent_items if item != action.item]
                self.recent_items = [action.item, *others][:RECENT_ITEMS]

    def _bring(self, ts: int, impressions: float, actions: float) -> None:
        elapsed = ts - self.at
        self.version += 1
        if elapsed >= 0:
            hour, day = math.pow(0.5, elapsed / HOUR_MS), math.pow(0.5, elapsed / DAY_MS)
            self.impressions_1h = self.impressions_1h * hour + impressions
            self.actions_1h = self.actions_1h * hour + actions
            self.impressions_1d = self.impressions_1d * day + impressions
            self.actions_1d = self.actions_1d * day + actions
            self.at = ts
            return
        # What comes late has decayed on its way.
        hour, day = math.pow(0.5, -elapsed / HOUR_MS), math.pow(0.5, -elapsed / DAY_MS)
        self.impressions_1h += impressions * hour
        self.actions_1h += actions * hour
        self.impressions_1d += impressions * day
        self.actions_1d += actions * day

    def values(self, ts: int) -> dict[str, Any]:
        """The values of the view `user_stats`, the counts brought to `ts` (ms) where that is later than `at`."""
        elapsed = ts - self.at
        return self._values(decayed(1.0, elapsed, HOUR_MS), decayed(1.0, elapsed, DAY_MS))

    def _values(self, hour: float, day: float) -> dict[str, Any]:
        return {
            "impressions_1h": self.impressions_1h * hour,
            "actions_1h": self.actions_1h * hour,
            "impressions_1d": self.impressions_1d * day,
            "actions_1d": self.actions_1d * day,
            "rating_mean": self.rating_sum / self.rating_count if self.rating_count else 0.0,
            "rating_count": float(self.rating_count),
            "last_action_ts": self.last_action_ts,
            "recent_items": list(self.recent_items),
        }

    def used(self, ts: int) -> UsedFeatures:
        """These values as features used at `ts` (ms)."""
        return UsedFeatures(
            view=USER_STATS, version=self.version, available_at=self.available_at, values=self.values(ts)
        )

    def row(self, user: str, now_ms: int) -> FeatureRow:
        """The row to push; `now_ms` (wall clock) is when it becomes available. The counts hold at the row's `ts`."""
        return FeatureRow(
            v=SCHEMA_VERSION,
            view=USER_STATS,
            entities={"user": user},
            values=self._values(1.0, 1.0),
            version=self.version,
            ts=self.at,
            available_at=now_ms,
        )


class ItemStats(Struct, array_like=True):
    """What happened to one item in one arm's traffic; the decayed counts hold at `at` (ms)."""

    impressions_1h: float = 0.0
    positives_1h: float = 0.0
    impressions_1d: float = 0.0
    positives_1d: float = 0.0
    rating_sum: float = 0.0
    rating_count: int = 0
    at: int = 0
    version: int = 0

    def add(self, ts: int, impressions: float = 0.0, positives: float = 0.0, rating: float | None = None) -> None:
        """Counts what happened at `ts` (ms)."""
        at = self.at
        self.impressions_1h = added(self.impressions_1h, at, impressions, ts, HOUR_MS)
        self.positives_1h = added(self.positives_1h, at, positives, ts, HOUR_MS)
        self.impressions_1d = added(self.impressions_1d, at, impressions, ts, DAY_MS)
        self.positives_1d = added(self.positives_1d, at, positives, ts, DAY_MS)
        if rating is not None:
            self.rating_sum += rating
            self.rating_count += 1
        self.at = max(at, ts)
        self.version += 1

    def row(self, item: str, arm: str, now_ms: int) -> FeatureRow:
        """The row to push for (`item`, `arm`); `now_ms` (wall clock) is when it becomes available."""
        return FeatureRow(
            v=SCHEMA_VERSION,
            view=ITEM_STATS,
            entities={"item": item, "arm": arm},
            values={
                "impressions_1h": self.impressions_1h,
                "positives_1h": self.positives_1h,
                "impressions_1d": self.impressions_1d,
                "positives_1d": self.positives_1d,
                "rating_sum": self.rating_sum,
                "rating_count": float(self.rating_count),
                "at": self.at,
            },
            version=self.version,
            ts=self.at,
            available_at=now_ms,
        )


def feature_key(view: str, entities: dict[str, str]) -> str:
    """The key of a feature row on the topic `features`: `view|entity values` in the order of the entities."""
    return "|".join([view, *entities.values()])
