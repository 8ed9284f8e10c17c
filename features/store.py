"""Opening the Feast store, with its objects built in the program: no command line, no shared registry to wait for."""

import tempfile
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from features.definitions import definitions, history_folder
from features.feast import FeatureStore, RedisOnlineStore, RepoConfig
from features.settings import FeatureSettings
from features.views import VIEWS

REGISTRY = "registry.db"


def open_store(settings: FeatureSettings, *, publish: bool = False) -> FeatureStore:
    """A store whose registry is in memory and never refreshed; safe in any number of processes at once.

    Every process builds the same objects, so nobody waits for a file that another one writes. With `publish` the
    registry is also put (by one rename) into `repo_dir`, for Feast's own tools. Feast's telemetry is gone upstream, and
    its optional trackers (OpenLineage, MLflow) stay off.
    """
    repo = Path(settings.repo_dir).resolve()
    for view in VIEWS.values():
        history_folder(repo, view).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".registry-", dir=repo) as folder:
        registry = Path(folder) / REGISTRY
        store = FeatureStore(config=_config(settings, repo, registry))
        store.apply(definitions(settings, repo))
        store.refresh_registry()  # type: ignore[no-untyped-call]
        if publish:
            registry.replace(repo / REGISTRY)
    return store


def open_published(settings: FeatureSettings) -> FeatureStore:
    """A store over the registry that the pusher published, for `get_historical_features` and Feast's own tools."""
    repo = Path(settings.repo_dir).resolve()
    return FeatureStore(config=_config(settings, repo, repo / REGISTRY))


def redis_client(store: FeatureStore) -> Redis:
    """The connection that Feast itself uses, told to fail at once: whoever asks decides about trying again."""
    online = store.provider.online_store
    assert isinstance(online, RedisOnlineStore)
    client: Redis = online._get_client(store.config.online_store)
    # redis-py would try four times with pauses of seconds, and Feast's connection string cannot say otherwise.
    client.set_retry(Retry(NoBackoff(), 0))
    return client


def _config(settings: FeatureSettings, repo: Path, registry: Path) -> RepoConfig:
    timeout_s = settings.redis_timeout_ms / 1000
    return RepoConfig(
        project=settings.project,
        provider="local",
        repo_path=repo,
        registry={"path": str(registry), "cache_ttl_seconds": 0},
        online_store={
            "type": "redis",
            "connection_string": f"{settings.redis},socket_timeout={timeout_s},socket_connect_timeout={timeout_s}",
            # Feast compares event times, which two versions of a row may share; the pusher compares versions.
            "skip_dedup": True,
        },
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
