"""What the trainer takes from the catalogue's topics is what the replica and the worker take."""

from typing import Any

import msgspec
import pytest

from online_learning.inputs import read
from serving.replica.replica import item_of
from streams.codec import Unreadable
from streams.intake import Rejected
from streams.records import Item, User
from streams.topics import EXAMPLES, ITEMS, USERS, Topic


class Record(msgspec.Struct):
    """A record as kafka-python hands it over."""

    value: bytes
    key: bytes | None = b"a"
    topic: str = "items"
    partition: int = 0
    offset: int = 7


@pytest.mark.parametrize(("topic", "name"), [(ITEMS, "item"), (USERS, "user")])
@pytest.mark.parametrize("value", ["b", "", " "])
def test_a_document_under_another_key_is_not_learned_from(topic: Topic, name: str, value: str) -> None:
    """A later null deletes by key: it could never be deleted."""
    with pytest.raises(Rejected):
        read(topic, Record(msgspec.json.encode({name: value})))


@pytest.mark.parametrize("key", [b"a", None])
def test_a_document_under_its_own_key_or_none_is_taken(key: bytes | None) -> None:
    assert read(ITEMS, Record(b'{"item": "a"}', key)) == Item(item="a")
    assert read(USERS, Record(b'{"user": "a"}', key)) == User(user="a")


@pytest.mark.parametrize(
    "document",
    [{}, {"item": "a"}, {"item": "b"}, {"item": 1}, {"item": "a", "v": 9}, {"item": "a", "ts": -1}],
)
def test_trainer_and_replica_agree_on_every_item(document: dict[str, Any]) -> None:
    def taken(by: Any) -> Any:
        try:
            return by(Record(msgspec.json.encode(document)))
        except Rejected as rejected:
            return rejected.reason

    assert taken(lambda record: read(ITEMS, record)) == taken(lambda record: item_of(record)[1])


def test_what_is_no_document_is_read_by_its_topics_codec() -> None:
    with pytest.raises(Unreadable):
        read(EXAMPLES, Record(b"{"))
