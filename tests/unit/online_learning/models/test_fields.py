"""Fields: the same keys in training and serving, whatever is missing."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from online_learning.models.fields import MAX_BAG, FieldEncoder
from online_learning.models.matches import match_names
from online_learning.settings import FieldSettings, ModelSettings
from online_learning.table.keys import hash_key
from streams.records import Item

SETTINGS = ModelSettings(
    fields=(
        FieldSettings(name="user", side="user", source="id"),
        FieldSettings(name="item", side="item", source="id"),
        FieldSettings(name="genres", side="item", source="attribute", attribute="genres"),
        FieldSettings(name="age", side="user", source="attribute", attribute="age"),
        FieldSettings(name="recent", side="user", source="recent"),
        FieldSettings(name="recent_genres", side="user", source="recent", attribute="genres"),
        FieldSettings(name="device", side="context", source="context", attribute="device"),
        FieldSettings(name="scene", side="context", source="scene"),
    )
)
CATALOGUE = {
    "alien": Item(item="alien", attributes={"genres": ["horror", "sci-fi"]}),
    "up": Item(item="up", attributes={"genres": "family"}),
}


def encoder() -> FieldEncoder:
    return FieldEncoder(SETTINGS, CATALOGUE.get)


def bag(side, row: int, field: int) -> list[int]:
    number = row * side.fields + field
    return side.keys[side.offsets[number] : side.offsets[number + 1]].tolist()


def test_a_key_is_the_hash_of_field_and_value():
    side = encoder().encode_user("ann", {"age": 25}, ["up", "alien"], "home", {"device": "tv"})
    assert [bag(side, 0, f) for f in range(6)] == [
        [hash_key("user", "ann")],
        [hash_key("age", "25")],
        [hash_key("item", "up"), hash_key("item", "alien")],
        [hash_key("genres", g) for g in ("family", "horror", "sci-fi")],
        [hash_key("device", "tv")],
        [hash_key("scene", "home")],
    ]


def keys_of_age(age: object) -> list[int]:
    side = encoder().encode_user("a", {"age": age}, [], "", None)
    return bag(side, 0, 1)


@given(st.integers(-(2**53), 2**53))
def test_whole_and_integral_numbers_are_one_value(number: int):
    assert keys_of_age(number) == keys_of_age(float(number)) == [hash_key("age", str(number))]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
@example(1234567.0, 1234568.0)
def test_two_numbers_are_two_values(one: float, other: float):
    """Ids that somebody's data frame made floats must not fall together."""
    assert (keys_of_age(one) == keys_of_age(other)) == (one == other)


def test_what_is_not_a_number_is_missing():
    assert keys_of_age(math.nan) == keys_of_age([math.nan]) == []


def test_everything_may_be_missing_or_unknown():
    side = encoder().encode_user("", None, ["never seen"], "", {"device": {"nested": 1}})
    assert [len(bag(side, 0, f)) for f in range(6)] == [0, 0, 1, 0, 0, 0]
    items = encoder().encode_items(["not in the catalogue", CATALOGUE["up"]])
    assert bag(items, 0, 0) == [hash_key("item", "not in the catalogue")]
    assert bag(items, 0, 1) == []
    assert bag(items, 1, 1) == [hash_key("genres", "family")]


def test_an_item_is_encoded_alike_by_id_and_by_record():
    assert encoder().item_bags("alien") == encoder().item_bags(CATALOGUE["alien"])


def test_an_endless_list_from_outside_is_cut():
    assert len(encoder().user_bags("a", {}, [str(k) for k in range(10_000)], "", None).keys) == 1 + MAX_BAG


def test_every_key_carries_the_space_of_its_field():
    both = encoder()
    users = [both.user_bags("ann", {"age": 3}, ["up"], "s", None)]
    side = both.combine(users, [both.item_bags("alien")])
    names = both.space_names()
    assert [names[space] for space in side.spaces.tolist()] == [
        "user", "age", "item", "genres", "scene", "item", "genres", "genres",
    ]  # fmt: skip


def test_what_an_item_has_in_common_with_recent_ones_is_counted():
    one = encoder()
    user = one.encode_user("ann", None, ["up", "alien", "nobody"])
    found = one.matches(user, one.encode_items(["alien", "nobody", "stranger"]))
    third = pytest.approx(1 / 3)
    assert match_names(SETTINGS.fields) == (
        "recent_share", "recent_log_count", "recent_genres_share", "recent_genres_log_count"
    )  # fmt: skip
    assert found[0].tolist() == [third, pytest.approx(math.log(2)), pytest.approx(2 / 3), pytest.approx(math.log(3))]
    assert found[1].tolist() == [third, pytest.approx(math.log(2)), 0, 0]
    assert found[2].tolist() == [0, 0, 0, 0]


def test_matches_are_alike_in_training_and_serving():
    one, items = encoder(), ["up", "alien", "nobody"]
    bags = one.user_bags("ann", None, ["up", "nobody"], "", None)
    whole = one.combine([bags] * 3, map(one.item_bags, items))
    served = one.matches(one.encode_user("ann", None, ["up", "nobody"]), one.encode_items(items))
    np.testing.assert_array_equal(one.own_matches(whole), served)


@given(st.lists(st.integers(0, 3), max_size=12))
def test_taking_rows_is_encoding_them_alone(rows: list[int]):
    names = ["alien", "up", "nobody", "alien"]
    one = encoder()
    taken = one.encode_items(names).take(np.array(rows, dtype=np.int64))
    direct = one.encode_items([names[row] for row in rows])
    for name in ("keys", "spaces", "offsets"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(direct, name))
    assert (taken.rows, taken.fields) == (len(rows), direct.fields)


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["alien", "up", "nobody"])), max_size=6))
def test_rows_with_other_items_are_encoded_as_if_these_had_come_with_them(pairs: list[tuple[str, str]]):
    one = encoder()
    bags = [one.user_bags(user, None, ["up"] if user == "ann" else [], "", None) for user, _ in pairs]
    before = one.combine(bags, [one.item_bags("up")] * len(pairs))
    changed = one.with_items(before, [item for _, item in pairs])
    direct = one.combine(bags, [one.item_bags(item) for _, item in pairs])
    for name in ("keys", "spaces", "offsets"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(direct, name))
    assert (changed.rows, changed.fields) == (len(pairs), direct.fields)
