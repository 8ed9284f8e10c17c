"""The feature views as plain data: what each row holds, in order. It needs no Feast."""

import enum
from typing import Any

import msgspec

from streams.documents import LAST_MS
from streams.records import FeatureRow


class Kind(enum.StrEnum):
    """The type of a column: `float` (64 bits), `int` (64 bits), `text`, or `texts` (a list of strings)."""

    FLOAT = "float"
    INT = "int"
    TEXT = "text"
    TEXTS = "texts"


class View(msgspec.Struct, frozen=True):
    """A feature view: its entities (join keys, in key order) and its columns (in declared order)."""

    name: str
    entities: tuple[str, ...]
    columns: dict[str, Kind]


_COUNTS = dict.fromkeys(("impressions_1h", "actions_1h", "impressions_1d", "actions_1d"), Kind.FLOAT)

USER_STATS = View(
    "user_stats",
    ("user",),
    {
        **_COUNTS,
        "rating_mean": Kind.FLOAT,
        "rating_count": Kind.FLOAT,
        "last_action_ts": Kind.INT,
        "recent_items": Kind.TEXTS,
    },
)
ITEM_STATS = View(
    "item_stats",
    ("item", "arm"),
    {
        **dict.fromkeys(("impressions_1h", "positives_1h", "impressions_1d", "positives_1d"), Kind.FLOAT),
        "rating_sum": Kind.FLOAT,
        "rating_count": Kind.FLOAT,
        "at": Kind.INT,
    },
)
USER_PROFILE = View("user_profile", ("user",), {"attributes": Kind.TEXT})

VIEWS: dict[str, View] = {view.name: view for view in (USER_STATS, ITEM_STATS, USER_PROFILE)}

# Every row also carries where it stands among the rows of its entity, and when it could first be read.
LINEAGE: dict[str, Kind] = {"version": Kind.INT, "available_at": Kind.INT}


class UnknownRow(ValueError):
    """A feature row names a view, an entity or a type that the catalogue of views does not know."""


def parse_key(key: str) -> tuple[View, dict[str, str]]:
    """The view and the entity values of a `features` key (`view|entity values`); raises UnknownRow.

    Only the first entity may contain the separator.
    """
    name, _, rest = key.partition("|")
    view = VIEWS.get(name)
    if view is None:
        raise UnknownRow(f"key {key!r}: view {name!r}, must be one of: {', '.join(VIEWS)}")
    parts = rest.rsplit("|", len(view.entities) - 1)
    if len(parts) != len(view.entities):
        raise UnknownRow(f"key {key!r}: {len(parts)} entity values, must be: {', '.join(view.entities)}")
    return view, dict(zip(view.entities, parts, strict=True))


_LARGEST_INT = 2**63 - 1

_PYTHON: dict[Kind, tuple[type, ...]] = {
    Kind.FLOAT: (float, int),
    Kind.INT: (int,),
    Kind.TEXT: (str,),
    Kind.TEXTS: (list, tuple),
}


def check_row(row: FeatureRow) -> tuple[str, ...]:
    """The row's key (view, *entity values); raises UnknownRow where the row does not fit its view, or its times are no
    ms since 1970."""
    view = VIEWS.get(row.view)
    if view is None:
        raise UnknownRow(f"view {row.view!r}, must be one of: {', '.join(VIEWS)}")
    if set(row.entities) != set(view.entities):
        raise UnknownRow(f"`{view.name}` has the entities {sorted(row.entities)}, must be: {', '.join(view.entities)}")
    for name, at_ms in (("ts", row.ts), ("available_at", row.available_at)):
        if not 0 <= at_ms <= LAST_MS:
            raise UnknownRow(f"`{view.name}.{name}` == {at_ms}, must be ms since 1970 and before 2262")
    check_values(view, row.values)
    return (view.name, *(row.entities[name] for name in view.entities))


def check_values(view: View, values: dict[str, Any]) -> None:
    """Raises UnknownRow where `values` has a column that the view lacks or one of another type (missing: null)."""
    for name, value in values.items():
        kind = view.columns.get(name)
        if kind is None:
            raise UnknownRow(f"`{view.name}` has no column {name!r}")
        # To Python true is a number; to parquet it is none.
        if value is not None and (isinstance(value, bool) or not isinstance(value, _PYTHON[kind])):
            raise UnknownRow(f"`{view.name}.{name}` == {value!r}, must be {kind}")
        if isinstance(value, int) and abs(value) > _LARGEST_INT:
            raise UnknownRow(f"`{view.name}.{name}` == {value!r}, must fit into 64 bits")
        if isinstance(value, list | tuple) and not all(isinstance(text, str) for text in value):
            raise UnknownRow(f"`{view.name}.{name}` == {value!r}, must be a list of strings")
