"""The catalogue of topics: which record each carries, how it is encoded, keyed, partitioned and kept."""

import enum
from typing import Any

import msgspec

from streams import records
from streams.codec import Codec, Encoding


class Partitioning(enum.StrEnum):
    """`users`: the shared count that every user-keyed topic has; `items`: item-keyed; `one`: a single partition."""

    USERS = "users"
    ITEMS = "items"
    ONE = "one"


class Keep(enum.StrEnum):
    """`time`: for the retention of the settings; `compacted`: the newest per key; `cut`: until freshet deletes it."""

    TIME = "time"
    COMPACTED = "compacted"
    CUT = "cut"


class Stamp(enum.StrEnum):
    """Whose time a record's timestamp is, in Kafka's words: its writer's, or the broker's when it appended it."""

    WRITER = "CreateTime"
    BROKER = "LogAppendTime"


class Topic(msgspec.Struct, frozen=True, kw_only=True):
    """One topic of the catalogue."""

    name: str
    key: str
    keep: Keep
    partitioning: Partitioning
    codec: Codec[Any]
    stamp: Stamp = Stamp.WRITER


MetricRecord = records.Metric | records.Validation


def _topic(
    name: str,
    record: Any,
    encoding: Encoding,
    key: str,
    partitioning: Partitioning,
    keep: Keep,
    stamp: Stamp = Stamp.WRITER,
) -> Topic:
    codec = Codec(record, encoding)
    return Topic(name=name, key=key, keep=keep, partitioning=partitioning, codec=codec, stamp=stamp)


_JSON, _MSGPACK = Encoding.JSON, Encoding.MSGPACK
_USERS, _ITEMS, _ONE = Partitioning.USERS, Partitioning.ITEMS, Partitioning.ONE

EVENTS = _topic("events", records.Event, _JSON, "any", _USERS, Keep.TIME)
ACTIONS = _topic("actions", records.Action, _JSON, "user", _USERS, Keep.TIME)
ITEMS = _topic("items", records.Item, _JSON, "item", _ONE, Keep.COMPACTED)
USERS = _topic("users", records.User, _JSON, "user", _USERS, Keep.COMPACTED)
# The broker's clock bounds what an answer's own may say, see `join`.
IMPRESSIONS = _topic("impressions", records.Impression, _MSGPACK, "user", _USERS, Keep.TIME, Stamp.BROKER)
EXAMPLES = _topic("examples", records.Example, _MSGPACK, "user", _USERS, Keep.CUT)
SIGNALS = _topic("signals", records.Signals, _MSGPACK, "none", _ITEMS, Keep.TIME)
FEATURES = _topic("features", records.FeatureRow, _MSGPACK, "view|entities", _USERS, Keep.COMPACTED)
UPDATES = _topic("updates", records.Frame, _MSGPACK, "table/shard", _ONE, Keep.CUT)
EXPERIMENTS = _topic("experiments", records.Experiment, _JSON, "name", _ONE, Keep.COMPACTED)
METRICS = _topic("metrics", MetricRecord, _JSON, "process", _ONE, Keep.TIME)
DEAD_LETTERS = _topic("dead-letters", records.DeadLetter, _JSON, "origin", _ONE, Keep.TIME)

CATALOGUE: tuple[Topic, ...] = (
    EVENTS,
    ACTIONS,
    ITEMS,
    USERS,
    IMPRESSIONS,
    EXAMPLES,
    SIGNALS,
    FEATURES,
    UPDATES,
    EXPERIMENTS,
    METRICS,
    DEAD_LETTERS,
)


# The worker's stages that keep state, and how their inputs (and so their changelogs) are partitioned.
STAGES: dict[str, Partitioning] = {"intake": _USERS, "join": _USERS, "item-counts": _ITEMS}


# How long a changelog tells of a deletion: a copy of the state on disk that is older may have missed one.
TOMBSTONES_MS = 24 * 3_600_000


def changelog(stage: str) -> str:
    """The name of the compacted topic that holds the state of a worker stage, partitioned as the stage's inputs."""
    return f"{stage}-changelog"
