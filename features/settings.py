"""What the features package can be told."""

from typing import Annotated

from msgspec import Meta, Struct

from streams.settings import Address, KafkaSettings, Positive


class FeatureSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the Feast store.

    An empty `redis` (host:port) means the local stack's own. `repo_dir` holds the registry and the offline history
    (parquet); empty means inside the state folder. Rows older than their `ttl_hours` read as null. The pusher gathers
    rows for at most `flush_interval_ms` and writes one part of history per view at most every `history_interval_s`.
    `redis_timeout_ms` bounds one request to Redis: after it an answer is made without user features.
    """

    kafka: KafkaSettings = KafkaSettings()
    redis: Address = ""
    repo_dir: str = ""
    project: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9]\w*$", description="of letters, digits and underscores, none of these first")
    ] = "freshet"
    user_ttl_hours: Positive = 24.0 * 90
    item_ttl_hours: Positive = 24.0 * 90
    flush_interval_ms: Annotated[float, Meta(gt=0, le=60_000)] = 100.0
    history_interval_s: Positive = 30.0
    redis_timeout_ms: Positive = 50.0
