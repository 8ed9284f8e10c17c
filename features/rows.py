"""Feature rows as Feast's protocol buffers."""

from datetime import UTC, datetime
from typing import Any

from features.feast import EntityKey, StringList, Value
from features.views import LINEAGE, Kind, View
from streams.records import FeatureRow

Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


def entity_key(view: View, entities: dict[str, str]) -> EntityKey:
    """The key of a row; Feast sorts join keys by name when it serialises."""
    names = list(view.entities)
    return EntityKey(join_keys=names, entity_values=[Value(string_val=entities[name]) for name in names])


def time(at_ms: int) -> datetime:
    """Milliseconds since the epoch as an aware UTC time."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def value(kind: Kind, raw: Any) -> Value:
    """One column's value; None is Feast's null. Raises TypeError or ValueError where `raw` is not of `kind`."""
    if raw is None:
        return Value()
    match kind:
        case Kind.FLOAT:
            return Value(double_val=float(raw))
        case Kind.INT:
            return Value(int64_val=int(raw))
        case Kind.TEXT:
            return Value(string_val=raw)
        case Kind.TEXTS:
            return Value(string_list_val=StringList(val=raw))


def written(view: View, row: FeatureRow) -> Written:
    """The row as Feast's provider takes it; raises KeyError, TypeError or ValueError where it does not fit `view`."""
    values = {name: value(kind, row.values.get(name)) for name, kind in view.columns.items()}
    lineage = {"version": row.version, "available_at": row.available_at}
    values |= {name: value(kind, lineage[name]) for name, kind in LINEAGE.items()}
    return entity_key(view, row.entities), values, time(row.ts), time(row.available_at)
