"""What is taken of items and users, and what the dead letters are told of the rest."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.catalogue import take_item, take_user
from streams.dead_letters import Reason
from streams.documents import read_document
from streams.intake import Rejected
from streams.outbox import Outbox
from streams.records import Item, User
from streams.settings import StreamsSettings
from streams.topics import DEAD_LETTERS, FEATURES

NOW_MS = 1_700_000_000_000
NESTED = b"[" * 100_000 + b"]" * 100_000


class Record(msgspec.Struct):
    """A record as a Kafka client hands it over."""

    value: bytes | None
    key: bytes | None = b"a"
    topic: str = "items"
    partition: int = 0
    offset: int = 7


def taken(record: Record, take: Any) -> list[tuple[str, bytes | None, bytes | None]]:
    out = Outbox({DEAD_LETTERS.name: 1, FEATURES.name: 1})
    take(record, StreamsSettings(), NOW_MS, out)
    return [(topic, key, value) for topic, _, entries in out for key, value in entries]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.EMPTY),
        (b"{", Reason.NOT_JSON),
        (b"\xff", Reason.BAD_UTF8),
        (b"[]", Reason.NOT_AN_OBJECT),
        (b"{}", Reason.MISSING_FIELD),
        (b'{"item": 3}', Reason.WRONG_TYPE),
        (b'{"item": " "}', Reason.EMPTY_ID),
        (b'{"item": "b"}', Reason.BAD_VALUE),
        (b'{"item": "a", "v": 9}', Reason.WRONG_VERSION),
        (b'{"item": "a", "attributes": {"x": true}}', Reason.WRONG_TYPE),
        (b'{"item": "a", "attributes": {"x": 18446744073709551616}}', Reason.WRONG_TYPE),
        (b'{"item": "a", "unknown": ' + NESTED + b"}", Reason.NOT_JSON),
        (b'{"item": "a", "text": "' + b"x" * 1_000_000 + b'"}', Reason.TOO_LARGE),
    ],
)
def test_an_item_that_cannot_be_taken_is_a_dead_letter_with_its_reason(value: bytes, reason: Reason) -> None:
    ((topic, _, letter),) = taken(Record(value), take_item)
    assert topic == DEAD_LETTERS.name
    assert letter is not None
    assert DEAD_LETTERS.codec.decode(letter).reason == reason


def test_a_deleted_item_and_a_good_one_leave_nothing() -> None:
    assert taken(Record(None), take_item) == []
    assert taken(Record(b'{"item": "a", "attributes": {"x": [], "y": 1.5}, "unknown": {}}'), take_item) == []


def test_a_profile_is_a_feature_row_and_a_null_takes_it_away() -> None:
    ((topic, key, value),) = taken(Record(b'{"user": "a", "attributes": {"x": 1}}', topic="users"), take_user)
    assert (topic, key) == (FEATURES.name, b"user_profile|a")
    assert value is not None
    row = FEATURES.codec.decode(value)
    assert (row.entities, row.values, row.ts) == ({"user": "a"}, {"attributes": '{"x":1}'}, NOW_MS)
    assert taken(Record(None, topic="users"), take_user) == [(FEATURES.name, b"user_profile|a", None)]


@pytest.mark.parametrize("take", [take_item, take_user])
@pytest.mark.parametrize("ts", [-1, NOW_MS * 1_000, NOW_MS * 1_000_000, 2**70])
def test_a_time_in_other_units_is_a_dead_letter(take: Any, ts: int) -> None:
    """Microseconds and nanoseconds are no date that the feature store could hold."""
    name = "item" if take is take_item else "user"
    ((topic, _, letter),) = taken(Record(msgspec.json.encode({name: "a", "ts": ts})), take)
    assert topic == DEAD_LETTERS.name and letter is not None
    assert DEAD_LETTERS.codec.decode(letter).reason == Reason.BAD_TIME


def test_a_null_whose_key_is_no_id_deletes_nothing() -> None:
    for key in (None, b"", b"\xff"):
        assert taken(Record(None, key, topic="users"), take_user) == []


VALUES = st.text(max_size=5) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(st.text())


@given(attributes=st.dictionaries(st.text(max_size=5), VALUES, max_size=4), kind=st.sampled_from([Item, User]))
def test_what_is_taken_can_travel_on_in_msgpack(attributes: dict[str, Any], kind: type[Item] | type[User]) -> None:
    """The catalogue that serving reads is made of it: one item that cannot be written would stop all later ones."""
    name = "item" if kind is Item else "user"
    try:
        found = read_document(Record(msgspec.json.encode({name: "a", "attributes": attributes})), kind, 10**6)
    except Rejected:
        assert any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in attributes.values())
    else:
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=kind) == found
