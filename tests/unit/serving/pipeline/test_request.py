"""A request is checked before anything else happens, and the message says what is wrong."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pipeline.request import BadRequest, Request, parse
from streams.intake import Intake, Rejected
from streams.records import Impression
from streams.settings import StreamsSettings
from streams.topics import IMPRESSIONS


def read(user: bytes = b"u1", n: int = 5, context: bytes = b"") -> Request:
    return parse(user, n, context, max_items=100, request_id="r", ts=1_000)


def test_known_fields_steer_and_all_others_are_features() -> None:
    context = {"scene": "home", "session": "s", "exclude": ["a"], "dry_run": True, "hour": 7, "device": "phone"}
    request = read(context=json.dumps(context).encode())
    assert request.context.scene == "home"
    assert request.context.exclude == ["a"]
    assert request.context.dry_run
    assert request.features == {"hour": 7, "device": "phone"}


def test_a_request_without_context_has_the_defaults() -> None:
    assert read().context.scene == ""
    assert read(context=b"{}") == read()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n": 0}, "`n` == 0, must be in 1..100"),
        ({"n": 101}, "`n` == 101, must be in 1..100"),
        ({"n": -(2**31)}, "must be in 1..100"),
        ({"user": b""}, "`user` has 0 characters, must have 1..512"),
        ({"user": b" \n"}, "`user` has 0 characters, must have 1..512"),
        ({"user": b"x" * 513}, "`user` has 513 characters, must have 1..512"),
        ({"user": b"\xff\xfe"}, "`user` is not UTF-8"),
        ({"context": b"{"}, "`context`"),
        ({"context": b"[]"}, "Expected `object`, got `array`"),
        ({"context": b"\xff"}, "`context`"),
        ({"context": b'{"scene": 3}'}, "`$.scene`"),
        ({"context": b'{"exclude": "a"}'}, "`$.exclude`"),
        ({"context": b'{"exclude": [1]}'}, "`$.exclude[0]`"),
        ({"context": b'{"a": "' + b"x" * 300_000 + b'"}'}, "bytes, must have at most"),
        ({"context": b'{"a": {"b": [1, 18446744073709551616]}}'}, "at `$.a.b[1]` an integer that 64 bits cannot hold"),
        ({"context": b'{"a": -9223372036854775809}'}, "at `$.a` an integer that 64 bits cannot hold"),
        ({"context": b'{"a": ' + b"[" * 32 + b"]" * 32 + b"}"}, "nested too deep, must have at most 32 levels"),
        ({"context": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"}, "nested too deep, must have at most 32"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**wrong)  # type: ignore[arg-type]
    assert message in str(refused.value)


@given(user=st.text(min_size=1, max_size=600))
def test_who_is_answered_can_act(user: str) -> None:
    """An id that the intake refuses would see lists and never be learned from."""
    event = {"ts": 1_000, "user": user, "item": "i", "kind": "click"}
    try:
        Intake(StreamsSettings()).read(msgspec.json.encode(event), "events-0-0", 1_000)
    except Rejected:
        with pytest.raises(BadRequest, match="`user`"):
            read(user.encode())
    else:
        assert read(user.encode()).user == user


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(context=st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_every_context_that_is_answered_can_be_logged_and_read_again(context: dict[str, Any]) -> None:
    """An impression that could not be written would stop the log of all later ones."""
    try:
        asked = read(context=msgspec.json.encode(context))
    except BadRequest:
        return
    impression = Impression(v=1, request_id="r", ts=1, user="u", items=[], context=asked.features)
    assert IMPRESSIONS.codec.decode(IMPRESSIONS.codec.encode(impression)) == impression


@given(user=st.binary(max_size=40), n=st.integers(-(2**31), 2**31 - 1), context=st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(user: bytes, n: int, context: bytes) -> None:
    try:
        read(user, n, context)
    except BadRequest as refused:
        assert str(refused)
