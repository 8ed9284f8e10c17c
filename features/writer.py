"""Writes the newest rows to Feast's online store; an older version never replaces a newer one."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from redis.exceptions import RedisError

from features.feast import FeatureStore, mmh3, serialize_entity_key
from features.rows import entity_key, written
from features.store import redis_client
from features.views import LINEAGE, VIEWS, View
from streams.records import FeatureRow

# Versions remembered so that a row of a busy entity costs no read; 200,000 keys are about 40 MB.
_REMEMBERED = 200_000

Change = FeatureRow | None


class StoreAway(RuntimeError):
    """The online store did not answer; nothing can be said about what was asked."""


class OnlineWriter:
    """Applies changes to the online store through one connection; not for use from several threads.

    One writer per partition of `features` is assumed: versions are compared here, not in Redis.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._redis = redis_client(store)
        self._views = {name: store.registry.get_feature_view(name, store.project, allow_cache=True) for name in VIEWS}
        self._versions: OrderedDict[tuple[str, ...], int] = OrderedDict()

    def apply(self, changes: Mapping[tuple[str, ...], Change]) -> int:
        """Writes the newest row per key ((view, *entity values)), deletes where it is None; returns the rows written.

        May be repeated with the same changes. Raises StoreAway, after which any part of them may have been written.
        """
        rows: dict[str, list[tuple[tuple[str, ...], FeatureRow]]] = {}
        gone: list[tuple[str, ...]] = []
        for key, row in changes.items():
            if row is None:
                gone.append(key)
            else:
                rows.setdefault(key[0], []).append((key, row))
        try:
            self._delete(gone)
            return sum(self._write(VIEWS[name], batch) for name, batch in rows.items())
        except RedisError as error:
            self._versions.clear()
            raise StoreAway(str(error)) from error

    def _write(self, view: View, batch: Sequence[tuple[tuple[str, ...], FeatureRow]]) -> int:
        self._learn_versions(view, [key for key, _ in batch if key not in self._versions])
        newer = [(key, row) for key, row in batch if row.version > self._versions.get(key, -1)]
        if not newer:
            return 0
        data = [written(view, row) for _, row in newer]
        self._store.provider.online_write_batch(self._store.config, self._views[view.name], data, None)
        for key, row in newer:
            self._versions[key] = row.version
            self._versions.move_to_end(key)
        while len(self._versions) > _REMEMBERED:
            self._versions.popitem(last=False)
        return len(newer)

    def _learn_versions(self, view: View, keys: list[tuple[str, ...]]) -> None:
        if not keys:
            return
        entities = [entity_key(view, dict(zip(view.entities, key[1:], strict=True))) for key in keys]
        read = self._store.provider.online_read(self._store.config, self._views[view.name], entities, ["version"])
        for key, (_, values) in zip(keys, read, strict=True):
            if values is not None and values["version"].HasField("int64_val"):
                self._versions[key] = values["version"].int64_val

    def _delete(self, keys: list[tuple[str, ...]]) -> None:
        # Feast can only delete whole views; a row is the hash fields of its view, as Feast's format specification says
        # (docs/specs/online_store_format.md, "Redis Online Store Format").
        if not keys:
            return
        config = self._store.config
        with self._redis.pipeline(transaction=False) as pipe:
            for name, *values in keys:
                view = VIEWS[name]
                key = entity_key(view, dict(zip(view.entities, values, strict=True)))
                raw = serialize_entity_key(key, config.entity_key_serialization_version) + config.project.encode()
                fields = [mmh3(f"{name}:{column}") for column in (*view.columns, *LINEAGE)]
                pipe.hdel(raw, f"_ts:{name}", *fields)  # type: ignore[arg-type]
            pipe.execute()
        for key_ in keys:
            self._versions.pop(key_, None)
