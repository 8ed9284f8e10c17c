"""A request is checked before anything else happens, and the message says what is wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.pipeline.request import BadRequest, Request, parse


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
        ({"user": b""}, "`user` has 0 bytes"),
        ({"user": b"x" * 2000}, "`user` has 2000 bytes"),
        ({"user": b"\xff\xfe"}, "`user` is not UTF-8"),
        ({"context": b"{"}, "`context`"),
        ({"context": b"[]"}, "Expected `object`, got `array`"),
        ({"context": b"\xff"}, "`context`"),
        ({"context": b'{"scene": 3}'}, "`$.scene`"),
        ({"context": b'{"exclude": "a"}'}, "`$.exclude`"),
        ({"context": b'{"exclude": [1]}'}, "`$.exclude[0]`"),
        ({"context": b'{"a": "' + b"x" * 300_000 + b'"}'}, "bytes, must have at most"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read(**wrong)  # type: ignore[arg-type]
    assert message in str(refused.value)


@given(user=st.binary(max_size=40), n=st.integers(-(2**31), 2**31 - 1), context=st.binary(max_size=60))
def test_no_bytes_whatever_raise_anything_else(user: bytes, n: int, context: bytes) -> None:
    try:
        read(user, n, context)
    except BadRequest as refused:
        assert str(refused)
