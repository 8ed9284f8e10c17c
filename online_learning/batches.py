"""Impressions and examples as rows for the learners: keys of all fields, dense features, and what they belong to."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from online_learning.models.dense_features import (
    dense_features,
    item_features,
    item_stats_matrix,
    raw_user,
    user_features,
)
from online_learning.models.fields import Bags, FieldEncoder, Side
from streams.records import Example, Impression, UsedFeatures


class UserAttributes(Protocol):
    """Where users' profile attributes are looked up."""

    def user_attributes(self, user: str) -> Mapping[str, Any] | None: ...


class Batch(NamedTuple):
    """B rows. side: keys over all F fields; dense: f32 [B, D]; items: the item of each row."""

    side: Side
    dense: NDArray[np.float32]
    items: list[str]

    @property
    def rows(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.integer]) -> "Batch":
        """The rows at `rows` (i64 [m])."""
        return Batch(self.side.take(rows), self.dense[rows], [self.items[row] for row in rows.tolist()])

    def followed_by(self, other: "Batch") -> "Batch":
        """The rows of both."""
        dense = np.concatenate([self.dense, other.dense])
        return Batch(self.side.followed_by(other.side), dense, self.items + other.items)


class Batcher:
    """Builds batches by the fields of the encoder and the users' attributes."""

    def __init__(self, encoder: FieldEncoder, users: UserAttributes) -> None:
        self._encoder, self._users = encoder, users

    def of_examples(self, examples: Sequence[Example]) -> Batch:
        """One row per example, with the features that were served with it."""
        users: list[Bags] = []
        raw_users: list[list[float]] = []
        request: str | None = None
        for example in examples:
            # Examples of one request come side by side and share their user.
            if request is None or example.request_id != request:
                bags = self._user(example.user, example.user_features, example.scene, example.context)
                raw = _raw_user(example.user_features)
            request = example.request_id
            users.append(bags)
            raw_users.append(raw)
        return self._batch(
            users,
            [example.item for example in examples],
            raw_users,
            [example.ts for example in examples],
            [example.item_features for example in examples],
            [example.position for example in examples],
        )

    def with_items(self, batch: Batch, items: Sequence[str]) -> Batch:
        """The same rows with other items, one for each: all that is not the item's own stays as it is."""
        side = self._encoder.with_items(batch.side, items)
        matches = self._encoder.own_matches(side)
        dense = np.concatenate([batch.dense[:, : batch.dense.shape[1] - matches.shape[1]], matches], axis=1)
        return Batch(side, dense, list(items))

    def of_impressions(self, impressions: Sequence[Impression]) -> Batch:
        """One row per item shown, in order."""
        users: list[Bags] = []
        items: list[str] = []
        raw_users: list[list[float]] = []
        times: list[int] = []
        stats: list[list[float]] = []
        positions: list[int] = []
        for impression in impressions:
            bags = self._user(impression.user, impression.user_features, impression.scene, impression.context)
            raw = _raw_user(impression.user_features)
            for shown in impression.items:
                users.append(bags)
                raw_users.append(raw)
                items.append(shown.item)
                times.append(impression.ts)
                stats.append(shown.features)
                positions.append(shown.position)
        return self._batch(users, items, raw_users, times, stats, positions)

    def _user(self, user: str, used: UsedFeatures | None, scene: str, context: Mapping[str, Any]) -> Bags:
        recent = used.values.get("recent_items") if used is not None else None
        return self._encoder.user_bags(user, self._users.user_attributes(user), recent or (), scene, context)

    def _batch(
        self,
        users: list[Bags],
        items: list[str],
        raw_users: list[list[float]],
        times: list[int],
        stats: list[list[float]],
        positions: list[int],
    ) -> Batch:
        side = self._encoder.combine(users, map(self._encoder.item_bags, items))
        dense = dense_features(
            user_features(np.array(raw_users, dtype=np.float64), np.array(times)),
            item_features(item_stats_matrix(stats)),
            np.array(positions),
            self._encoder.own_matches(side),
        )
        return Batch(side, dense, items)


def _raw_user(used: UsedFeatures | None) -> list[float]:
    return raw_user(used.values if used is not None else None)
