"""What the intake takes, and what it says of what it does not take."""

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.dead_letters import Reason
from streams.intake import Intake, Rejected
from streams.records import Action
from streams.settings import LabelRule, StreamsSettings, Target, TaskSettings
from streams.topics import ACTIONS
from tests.malformed import document, malformed

NOW = 1_700_000_000_000
SETTINGS = StreamsSettings(max_record_bytes=20_000)


def read(data: bytes | None) -> Action:
    accepted = Intake(SETTINGS).read(data, "events-0-7", NOW)
    assert ACTIONS.codec.decode(accepted.data) == accepted.action
    return accepted.action


def rejected(data: bytes | None) -> Rejected:
    with pytest.raises(Rejected) as caught:
        read(data)
    return caught.value


def encoded(**changes: Any) -> bytes:
    return json.dumps(document(1, NOW) | changes).encode()


def test_the_smallest_event_becomes_an_action_named_by_its_origin() -> None:
    data = json.dumps({"ts": NOW, "user": "u", "item": "i", "kind": "click"}).encode()
    assert read(data) == Action(ts=NOW, user="u", item="i", kind="click", event_id="events-0-7", received_at=NOW)


def test_unknown_fields_are_kept() -> None:
    assert read(encoded(campaign="spring", nested={"a": [1, None]})).extra == {
        "campaign": "spring",
        "nested": {"a": [1, None]},
    }


@pytest.mark.parametrize(
    ("context", "detail"),
    [
        ({"a": [{"b": 2**64}]}, "`$.context` has at `$.a[0].b` an integer that 64 bits cannot hold"),
        ({"a": -(2**63) - 1}, "`$.context` has at `$.a` an integer that 64 bits cannot hold"),
        ({"a": json.loads("[" * 32 + "]" * 32)}, "`$.context` is nested too deep, must have at most 32 levels"),
    ],
)
def test_a_context_that_no_example_can_carry_is_refused(context: dict[str, Any], detail: str) -> None:
    """Taken, it would end the join of its partition at every start."""
    refused = rejected(encoded(context=context))
    assert (refused.reason, refused.detail) == (Reason.BAD_VALUE, detail)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_versions_around_our_own_are_taken(version: int) -> None:
    assert read(encoded(v=version)).v == 1


def test_a_null_in_an_optional_field_counts_as_absent() -> None:
    action = read(encoded(event_id=None, scene=None, context=None, value=None, session=None))
    assert (action.event_id, action.scene, action.context, action.value) == ("events-0-7", "", {}, None)


@pytest.mark.parametrize("n", range(200))
def test_each_malformed_kind_has_its_reason(n: int) -> None:
    data, reason = malformed(random.Random(n), n, NOW, SETTINGS.max_record_bytes)
    error = rejected(data)
    assert (error.reason, bool(error.detail)) == (reason, True)


def test_the_detail_names_the_path() -> None:
    assert rejected(encoded(value="5")).detail == "Expected `float | null`, got `str` - at `$.value`"
    assert rejected(b'{"ts": 5}').detail == "Object missing required field `user`"


@pytest.mark.parametrize("ahead_ms, taken", [(3_600_000, True), (3_600_001, False)])
def test_the_future_ends_at_the_setting(ahead_ms: int, taken: bool) -> None:
    if taken:
        assert read(encoded(ts=NOW + ahead_ms)).ts == NOW + ahead_ms
    else:
        assert rejected(encoded(ts=NOW + ahead_ms)).reason is Reason.FUTURE_TIME


def test_an_id_has_a_bounded_length() -> None:
    assert rejected(encoded(user="u" * 513)).reason is Reason.BAD_VALUE


def test_a_document_nested_too_deep_is_refused() -> None:
    assert rejected(b'{"context":' + b"[" * 9_000 + b"]" * 9_000 + b"}").reason is Reason.NOT_JSON


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(["ts", "user", "item", "kind", "v", "value", "event_id", "context", "scene", "other"])


@given(st.binary(max_size=60) | st.none())
@example(b'{"ts":1,"user":"\\ud800","item":"i","kind":"k"}')
def test_no_bytes_make_it_fail(data: bytes | None) -> None:
    try:
        read(data)
    except Rejected as error:
        assert error.reason in Reason


@given(st.dictionaries(fields, json_values))
def test_no_document_makes_it_fail(changes: dict[str, Any]) -> None:
    try:
        read(json.dumps(document(1, NOW) | changes).encode("utf-8", "surrogatepass"))
    except Rejected as error:
        assert error.reason in Reason


VALUES = StreamsSettings(
    tasks=(TaskSettings(name="stay", target=Target.VALUE),), labels=(LabelRule(task="stay", kind="dwell"),)
)


@pytest.mark.parametrize("value", [0, 12.5, 1e12, None])
def test_a_value_that_can_be_a_label_is_taken(value: float | None) -> None:
    assert Intake(VALUES).read(encoded(kind="dwell", value=value), "events-0-7", NOW).action.value == value


@pytest.mark.parametrize("value", [-0.5, 1.1e12])
def test_a_value_that_cannot_be_a_label_is_a_dead_letter(value: float) -> None:
    with pytest.raises(
        Rejected, match=r"`\$.value` == .*, must be in \[0, 1e\+12\]: that of `dwell` is a label"
    ) as caught:
        Intake(VALUES).read(encoded(kind="dwell", value=value), "events-0-7", NOW)
    assert caught.value.reason is Reason.BAD_VALUE
    # Of another kind, or where no task asks for it, it is only a number.
    assert Intake(VALUES).read(encoded(kind="refund", value=value), "events-0-7", NOW).action.value == value
    assert read(encoded(kind="dwell", value=value)).value == value
