"""Named categorical fields: users, items and contexts become bags of 64-bit keys, alike in training and serving.

Fields of the user and of the context are known once per request, fields of the item once per catalogue entry. So the
two sides are encoded apart and meet only as pooled rows: `[user and context fields..., item fields...]`, in the order
of the settings within each side.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from online_learning.models.matches import match_features, matching_field
from online_learning.settings import FieldSettings, ModelSettings
from online_learning.table.keys import KeyHasher
from streams.records import Item

# A list from the open door may be of any length; pooling more values than this says nothing more.
MAX_BAG = 64
MAX_REMEMBERED = 1 << 18

T = TypeVar("T")

ItemLookup = Callable[[str], Item | None]
"""The catalogue as the encoder sees it: the item's latest state, or None where it is unknown."""


class Bags(NamedTuple):
    """The keys of one side of one row: all keys in field order, and how many each field has."""

    keys: list[int]
    lengths: list[int]


class Side:
    """Keys of n rows by F fields as CSR: bag `r * F + f` is `keys[offsets[bag]:offsets[bag + 1]]`.

    keys: u64 [K]; spaces: u16 [K], the key space (field) of each key; offsets: i64 [n * F + 1].
    """

    __slots__ = ("fields", "keys", "offsets", "rows", "spaces")

    def __init__(
        self, keys: NDArray[np.uint64], spaces: NDArray[np.uint16], offsets: NDArray[np.int64], rows: int, fields: int
    ) -> None:
        self.keys, self.spaces, self.offsets, self.rows, self.fields = keys, spaces, offsets, rows, fields

    @classmethod
    def of(cls, bags: Iterable[Bags], spaces: NDArray[np.uint16]) -> Self:
        """Joins the rows' bags; `spaces` u16 [F] is the key space of each field."""
        keys: list[int] = []
        lengths: list[int] = []
        for row in bags:
            keys += row.keys
            lengths += row.lengths
        fields = len(spaces)
        rows = len(lengths) // fields if fields else 0
        counts = np.array(lengths, dtype=np.int64)
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        space_of_key = np.repeat(np.tile(spaces, rows), counts)
        return cls(np.array(keys, dtype=np.uint64), space_of_key, offsets, rows, fields)

    def take(self, rows: NDArray[np.integer]) -> "Side":
        """The rows at `rows` (i64 [m], any order, repeats allowed), as a Side of m rows."""
        bags = (np.asarray(rows, dtype=np.int64)[:, None] * self.fields + np.arange(self.fields)).ravel()
        starts = self.offsets[bags]
        counts = self.offsets[bags + 1] - starts
        offsets = np.zeros(len(bags) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        where = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return Side(self.keys[where], self.spaces[where], offsets, len(rows), self.fields)

    def fields_between(self, first: int, last: int) -> "Side":
        """The fields `first` to `last` (excluded) of every row."""
        bags = (np.arange(self.rows)[:, None] * self.fields + np.arange(first, last)).ravel()
        plain = Side(self.keys, self.spaces, self.offsets, self.rows * self.fields, 1).take(bags)
        return Side(plain.keys, plain.spaces, plain.offsets, self.rows, last - first)

    def beside(self, other: "Side") -> "Side":
        """The fields of both, row by row; both have the same number of rows."""
        sides = (self, other)
        counts = [np.diff(side.offsets).reshape(self.rows, side.fields) for side in sides]
        bags = np.concatenate(counts, axis=1)
        offsets = np.zeros(bags.size + 1, dtype=np.int64)
        np.cumsum(bags.ravel(), out=offsets[1:])
        keys, spaces = np.empty(offsets[-1], dtype=np.uint64), np.empty(offsets[-1], dtype=np.uint16)
        # A row's keys of this side come first, and those of the other behind them.
        first = np.cumsum(bags.sum(axis=1)) - bags.sum(axis=1)
        for side, of_bag in zip(sides, counts, strict=True):
            of_row = of_bag.sum(axis=1)
            where = np.arange(len(side.keys)) + np.repeat(first - (np.cumsum(of_row) - of_row), of_row)
            keys[where], spaces[where] = side.keys, side.spaces
            first = first + of_row
        return Side(keys, spaces, offsets, self.rows, self.fields + other.fields)

    def followed_by(self, other: "Side") -> "Side":
        """The rows of both, which are of the same fields."""
        return Side(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.spaces, other.spaces]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            self.rows + other.rows,
            self.fields,
        )


def _text(value: object) -> str | None:
    """A value as its key's text: 25 and 25.0 are one value; NaN and what is no scalar have no text."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value) if isinstance(value, int) else None


def _texts(value: object) -> list[str]:
    """All values of an attribute; an absent one has none."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list | tuple):
        if all(type(one) is str and one for one in value[:MAX_BAG]):
            return list(value[:MAX_BAG])
        return [text for text in map(_text, value[:MAX_BAG]) if text is not None]
    text = _text(value)
    return [] if text is None else [text]


class FieldEncoder:
    """Turns users, contexts and items into keys by the fields of the settings.

    `item_of` looks up the catalogue; it is used for attributes of recent items (a `recent` field with an `attribute`)
    and for `item_bags`. Not safe from several threads: it remembers keys.
    """

    def __init__(self, settings: ModelSettings, item_of: ItemLookup = lambda _: None) -> None:
        self.item_of = item_of
        self.user_fields = tuple(field for field in settings.fields if field.side != "item")
        self.item_fields = tuple(field for field in settings.fields if field.side == "item")
        # A field of recent items shares keys, rows and space with the item's own field: equal values are equal keys.
        self._matching = {field.name: matching_field(field, self.item_fields) or field for field in settings.fields}
        number = {field.name: place for place, field in enumerate(settings.fields, start=1)}
        space = {name: number[field.name] for name, field in self._matching.items()}
        self.user_spaces = np.array([space[field.name] for field in self.user_fields], dtype=np.uint16)
        self.item_spaces = np.array([space[field.name] for field in self.item_fields], dtype=np.uint16)
        self.spaces = np.concatenate([self.user_spaces, self.item_spaces])
        self._hashers = {name: KeyHasher(field.name) for name, field in self._matching.items()}
        self._pairs = np.array(
            [
                (place, self.item_fields.index(other))
                for place, field in enumerate(self.user_fields)
                if (other := matching_field(field, self.item_fields)) is not None
            ],
            dtype=np.int64,
        ).reshape(-1, 2)
        self._bags_of: dict[str, tuple[Item | None, Bags]] = {}
        self._of_recent = tuple(field for field in self.user_fields if field.source == "recent" and field.attribute)
        self._recent_of: dict[str, tuple[Item, list[list[int]]]] = {}

    @property
    def fields(self) -> int:
        """F, the number of fields of a whole row."""
        return len(self.user_fields) + len(self.item_fields)

    def space_names(self) -> dict[int, str]:
        """The field's name of every key space."""
        named = [self._matching[field.name].name for field in (*self.user_fields, *self.item_fields)]
        return {int(space): name for space, name in zip(self.spaces, named, strict=True)}

    # --- one row at a time -----------------------------------------------------------------------------------------

    def user_bags(
        self,
        user: str,
        attributes: Mapping[str, Any] | None,
        recent: Sequence[str],
        scene: str,
        context: Mapping[str, Any] | None,
    ) -> Bags:
        """Bags of the user and context fields. `recent`: the view `user_stats`' recent items, newest first."""
        bags = Bags([], [])
        recent = recent[:MAX_BAG]
        attributes_of_recent = iter(self._recent_keys(recent))
        for field in self.user_fields:
            match field.source:
                case "id":
                    keys = self._keys(field, user)
                case "attribute":
                    keys = self._keys(field, attributes.get(field.attribute)) if attributes else []
                case "context":
                    keys = self._keys(field, context.get(field.attribute)) if context else []
                case "scene":
                    keys = self._keys(field, scene)
                case "recent" if not field.attribute:
                    keys = self._keys(field, recent)
                case "recent":
                    keys = next(attributes_of_recent)[:MAX_BAG]
            bags.keys.extend(keys)
            bags.lengths.append(len(keys))
        return bags

    def item_bags(self, item: Item | str) -> Bags:
        """Bags of the item fields; an id is looked up, and an item that the catalogue lacks has its id only."""
        if not isinstance(item, str):
            return self._item_bags(item.item, item)
        known = self.item_of(item)
        kept = self._bags_of.get(item)
        if kept is not None and kept[0] is known:
            return kept[1]
        bags = self._item_bags(item, known)
        _keep(self._bags_of, item, (known, bags))
        return bags

    # --- many rows -------------------------------------------------------------------------------------------------

    def encode_user(
        self,
        user: str,
        attributes: Mapping[str, Any] | None,
        recent: Sequence[str],
        scene: str = "",
        context: Mapping[str, Any] | None = None,
    ) -> Side:
        """One row of the user and context fields (n = 1)."""
        return Side.of([self.user_bags(user, attributes, recent, scene, context)], self.user_spaces)

    def encode_items(self, items: Iterable[Item | str]) -> Side:
        """One row of the item fields per item."""
        return Side.of(map(self.item_bags, items), self.item_spaces)

    def combine(self, users: Iterable[Bags], items: Iterable[Bags]) -> Side:
        """Whole rows over all F fields from bags of both sides, pairwise."""
        both = (Bags(u.keys + i.keys, u.lengths + i.lengths) for u, i in zip(users, items, strict=True))
        return Side.of(both, self.spaces)

    def with_items(self, side: Side, items: Iterable[Item | str]) -> Side:
        """Whole rows over all F fields with other items, one for each row."""
        return side.fields_between(0, len(self.user_fields)).beside(self.encode_items(items))

    def sides(self, side: Side) -> tuple[Side, Side]:
        """Whole rows over all F fields as their user and context fields, and their item fields."""
        between = len(self.user_fields)
        return side.fields_between(0, between), side.fields_between(between, side.fields)

    def matches(self, user: Side, items: Side) -> NDArray[np.float32]:
        """What each item has in common with the user's recent items: f32 [n, M] of a user's side (one row) and the
        items' side (n rows); see `match_names`."""
        return match_features(
            (user.keys, user.offsets, user.fields),
            (items.keys, items.offsets, items.fields),
            self._pairs,
            items.rows,
            one_user=True,
        )

    def own_matches(self, side: Side) -> NDArray[np.float32]:
        """The same f32 [n, M] of whole rows over all F fields, each with the user and the item of its own."""
        csr = (side.keys, side.offsets, side.fields)
        # In a whole row the item's fields follow the user's.
        pairs = self._pairs + np.array([0, len(self.user_fields)])
        return match_features(csr, csr, pairs, side.rows, one_user=False)

    def id_keys(self, side: str, value: str) -> NDArray[np.uint64]:
        """The keys u64 [n] of all fields that hold the id of a `user` or an `item` (for erasure)."""
        named = (*self.user_fields, *self.item_fields)
        ids = [field.name for field in named if field.side == side and field.source == "id"]
        return np.array([self._hashers[name].one(value) for name in ids], dtype=np.uint64)

    # --- inner -----------------------------------------------------------------------------------------------------

    def _keys(self, field: FieldSettings, value: object) -> list[int]:
        one = self._hashers[field.name].one
        return [one(text) for text in _texts(value)]

    def _recent_keys(self, recent: Sequence[str]) -> list[list[int]]:
        """The keys of the recent items' attributes, of each field that has some; an item's are remembered as long as
        the catalogue's record of it is the same."""
        keys: list[list[int]] = [[] for _ in self._of_recent]
        for item in recent if keys else ():
            known = self.item_of(item)
            if known is None:
                continue
            kept = self._recent_of.get(item)
            if kept is None or kept[0] is not known:
                of_fields = [self._keys(field, known.attributes.get(field.attribute)) for field in self._of_recent]
                kept = (known, of_fields)
                _keep(self._recent_of, item, kept)
            for all_keys, own in zip(keys, kept[1], strict=True):
                all_keys += own
        return keys

    def _item_bags(self, name: str, known: Item | None) -> Bags:
        bags = Bags([], [])
        for field in self.item_fields:
            if field.source == "id":
                keys = self._keys(field, name)
            elif known is None:
                keys = []
            elif field.source == "scene":
                keys = self._keys(field, known.scene)
            else:
                keys = self._keys(field, known.attributes.get(field.attribute))
            bags.keys.extend(keys)
            bags.lengths.append(len(keys))
        return bags


def _keep(kept: dict[str, T], name: str, value: T) -> None:
    """Remembers, in bounded memory: what is asked for again is soon there again."""
    if len(kept) >= MAX_REMEMBERED:
        kept.clear()
    kept[name] = value
