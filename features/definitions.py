"""The Feast objects: entities, feature views over our parquet history, and the service that serving reads."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from features.feast import (
    Array,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    Float64,
    Int64,
    ParquetFormat,
    String,
    ValueType,
)
from features.settings import FeatureSettings
from features.views import LINEAGE, USER_PROFILE, USER_STATS, VIEWS, Kind, View

TYPES: Mapping[Kind, Any] = {Kind.FLOAT: Float64, Kind.INT: Int64, Kind.TEXT: String, Kind.TEXTS: Array(String)}
EVENT_TIMESTAMP, CREATED_TIMESTAMP = "event_timestamp", "created_timestamp"
USER_SERVICE = "user"


def history_folder(repo: Path, view: View) -> Path:
    """The folder of parquet parts that is the view's offline source."""
    return repo / "history" / view.name


def feature_view(view: View, entities: Mapping[str, Entity], repo: Path, ttl: timedelta) -> FeatureView:
    """The Feast view of `view`, whose offline source is its folder of history parts."""
    source = FileSource(
        name=f"{view.name}_history",
        path=str(history_folder(repo, view)),
        file_format=ParquetFormat(),
        timestamp_field=EVENT_TIMESTAMP,
        created_timestamp_column=CREATED_TIMESTAMP,
    )
    columns = {**view.columns, **LINEAGE}
    return FeatureView(
        name=view.name,
        entities=[entities[name] for name in view.entities],
        ttl=ttl,
        schema=[Field(name=name, dtype=TYPES[kind]) for name, kind in columns.items()]
        + [Field(name=name, dtype=String) for name in view.entities],
        source=source,
        online=True,
    )


def definitions(settings: FeatureSettings, repo: Path) -> list[Any]:
    """All objects of the registry: entities user, item and arm; the views; the service `user` (profile and stats)."""
    entities = {
        name: Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in ("user", "item", "arm")
    }
    user_ttl = timedelta(hours=settings.user_ttl_hours)
    item_ttl = timedelta(hours=settings.item_ttl_hours)
    views = {
        view.name: feature_view(view, entities, repo, user_ttl if "user" in view.entities else item_ttl)
        for view in VIEWS.values()
    }
    service = FeatureService(name=USER_SERVICE, features=[views[USER_STATS.name], views[USER_PROFILE.name]])
    return [*entities.values(), *views.values(), service]
