"""Reads what is known of a user from Feast's online store, quickly enough for a request."""

import time
from typing import Any

import msgspec
from msgspec import Struct, field
from redis.exceptions import RedisError

from features.definitions import USER_SERVICE
from features.feast import FeatureStore
from features.settings import FeatureSettings
from features.store import open_store, redis_client
from features.views import USER_PROFILE, USER_STATS, View
from features.writer import StoreAway
from streams.records import UsedFeatures

__all__ = ["StoreAway", "UserFeatures", "UserRow"]

# While the store is away, one request in this many seconds finds out whether it is back; the others do not wait for it.
_RETRY_S = 0.5


class UserRow(Struct, frozen=True):
    """What is known of a user: the `user_stats` row as it was read, and the profile's attributes."""

    stats: UsedFeatures | None
    attributes: dict[str, Any] = field(default_factory=dict)


class UserFeatures:
    """Reads users through `get_online_features`, with Feast's null and TTL rules; one instance per thread.

    A row whose event time is further back than its view's TTL reads as null: Feast says so for all stores, but for
    Redis leaves it to the reader. Some 0.5 ms a read; constructing it builds the registry in memory (a second).
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self._store: FeatureStore = open_store(settings)
        self._redis = redis_client(self._store)
        self._service = self._store.registry.get_feature_service(USER_SERVICE, self._store.project, allow_cache=True)
        self._ttl_s = settings.user_ttl_hours * 3600
        self._away_until_s = 0.0

    def read(self, user: str) -> UserRow | None:
        """The user's row; None where nothing is known (or all of it is older than its TTL).

        Raises StoreAway where Redis does not answer in time; after that at once for half a second.
        """
        now_s = time.monotonic()
        if now_s < self._away_until_s:
            raise StoreAway("the online store did not answer a moment ago")
        try:
            response = self._store.get_online_features(self._service, [{"user": user}], full_feature_names=True)
        except RedisError as error:
            self._away_until_s = now_s + _RETRY_S
            raise StoreAway(str(error)) from error
        read = {name: values[0] for name, values in response.to_dict(include_event_timestamps=True).items()}
        oldest_s = time.time() - self._ttl_s
        stats = _used(USER_STATS, read, oldest_s)
        profile = _used(USER_PROFILE, read, oldest_s)
        if stats is None and profile is None:
            return None
        attributes = msgspec.json.decode(profile.values["attributes"] or "{}") if profile is not None else {}
        return UserRow(stats=stats, attributes=attributes)


def _used(view: View, read: dict[str, Any], oldest_s: float) -> UsedFeatures | None:
    version = read[f"{view.name}__version"]
    if version is None or read[f"{view.name}__version__ts"] < oldest_s:
        return None
    return UsedFeatures(
        view=view.name,
        version=version,
        available_at=read[f"{view.name}__available_at"],
        values={name: read[f"{view.name}__{name}"] for name in view.columns},
    )
