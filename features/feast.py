"""What is used of Feast, imported as it is written.

Feast decorates its classes by `typeguard.typechecked`, which parses and compiles their sources anew at every start: 4.6
of the 7.5 s of CPU that its import takes, for each process that reads or pushes features. What these classes are called
with is checked before, by their types.
"""

from typing import Any

import typeguard


def _as_it_is(target: Any = None, **_: Any) -> Any:
    """Stands for `typechecked`, with or without arguments."""
    return _as_it_is if target is None else target


_typechecked = typeguard.typechecked
vars(typeguard)["typechecked"] = _as_it_is
try:
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
    from feast.data_format import ParquetFormat
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.online_stores.helpers import _mmh3
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import StringList, Value
    from feast.repo_config import RepoConfig
    from feast.types import Array, Float64, Int64, String
finally:
    vars(typeguard)["typechecked"] = _typechecked

mmh3 = _mmh3

__all__ = [
    "Array",
    "Entity",
    "EntityKey",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FileSource",
    "Float64",
    "Int64",
    "ParquetFormat",
    "RedisOnlineStore",
    "RepoConfig",
    "String",
    "StringList",
    "Value",
    "ValueType",
    "mmh3",
    "serialize_entity_key",
]
