"""The open door: what producers send becomes an action, or a dead letter that says exactly why not."""

import math
from typing import Any

import msgspec

from streams import contexts
from streams.dead_letters import Reason
from streams.labels import LabelRules, is_good
from streams.records import SCHEMA_VERSION, Action, Event
from streams.settings import MOST_VALUE, StreamsSettings
from streams.topics import ACTIONS

# Ids are held in memory, in keys and in every row that speaks of them.
MAX_ID_CHARS = 512
_FIELDS = frozenset(Event.__struct_fields__)
_decode = msgspec.json.Decoder().decode
_json = msgspec.json.Encoder().encode


class Rejected(Exception):
    """A record that is not taken, with the reason's code and a detail for whoever sent it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Accepted(msgspec.Struct, frozen=True):
    """An action and its bytes as the topic `actions` carries them."""

    action: Action
    data: bytes


class Intake:
    """Validates the records of the topic `events`, whatever their bytes."""

    def __init__(self, settings: StreamsSettings) -> None:
        self._max_bytes = settings.max_record_bytes
        self._future_ms = settings.join.future_ms
        self._rules = LabelRules(settings.tasks, settings.labels)

    def read(self, data: bytes | None, origin: str, now_ms: int) -> Accepted:
        """The action in `data`; raises Rejected and nothing else.

        `origin` (`topic-partition-offset`) becomes the event id where the producer gave none. Fields that this version
        does not know are kept in `extra`; a null in an optional field counts as absent. Versions from one before to
        one after our own are taken.
        """
        document = parse(data, self._max_bytes)
        event = self._event(document)
        _check_time(event.ts, now_ms, self._future_ms)
        for name in ("user", "item", "kind", "event_id", "request_id", "session"):
            _check_id(name, getattr(event, name))
        if event.value is not None and not math.isfinite(event.value):
            raise Rejected(Reason.BAD_VALUE, f"`$.value` == {event.value}, must be finite")
        if event.value is not None and self._rules.wants_value(event.kind) and not is_good(event.value):
            raise Rejected(
                Reason.BAD_VALUE,
                f"`$.value` == {event.value}, must be in [0, {MOST_VALUE:g}]: that of `{event.kind}` is a label",
            )
        if event.context:
            # The join writes it again in msgpack: what that cannot hold would stop all later examples.
            try:
                contexts.check(event.context)
            except contexts.BadContext as error:
                raise Rejected(Reason.BAD_VALUE, f"`$.context` {error}") from error
        action = Action(
            ts=event.ts,
            user=event.user,
            item=event.item,
            kind=event.kind,
            event_id=event.event_id or origin,
            received_at=now_ms,
            value=event.value,
            request_id=event.request_id,
            session=event.session,
            scene=event.scene,
            context=event.context,
            extra={key: value for key, value in document.items() if key not in _FIELDS},
        )
        try:
            return Accepted(action, ACTIONS.codec.encode(action))
        except (ValueError, OverflowError, RecursionError) as error:
            raise Rejected(Reason.BAD_VALUE, f"cannot be written again: {error}") from error

    def _event(self, document: dict[str, Any]) -> Event:
        check_version(document)
        present = {k: v for k, v in document.items() if v is not None or k in ("ts", "user", "item", "kind")}
        try:
            return msgspec.convert(present, Event)
        except msgspec.ValidationError as error:
            text = str(error)
            missing = text.startswith("Object missing")
            raise Rejected(Reason.MISSING_FIELD if missing else Reason.WRONG_TYPE, text) from error


def parse(data: bytes | None, max_bytes: int) -> dict[str, Any]:
    """The JSON object in `data`; raises Rejected with the reason, whatever the bytes."""
    if not data:
        raise Rejected(Reason.EMPTY, "no value" if data is None else "0 bytes")
    if len(data) > max_bytes:
        raise Rejected(Reason.TOO_LARGE, f"{len(data)} bytes, at most {max_bytes} are taken")
    try:
        document = _decode(data)
    except UnicodeDecodeError as error:
        raise Rejected(Reason.BAD_UTF8, str(error)) from error
    except RecursionError as error:
        raise Rejected(Reason.NOT_JSON, "nested too deep") from error
    except msgspec.DecodeError as error:
        raise _unparsed(data, error) from error
    if not isinstance(document, dict):
        raise Rejected(Reason.NOT_AN_OBJECT, f"the document is a {type(document).__name__}, must be an object")
    return document


def check_version(document: dict[str, Any]) -> None:
    """Takes the version before our own, our own and the one after; raises Rejected for others."""
    version = document.get("v", SCHEMA_VERSION)
    if isinstance(version, bool) or not isinstance(version, int):
        raise Rejected(Reason.WRONG_TYPE, f"Expected `int`, got `{type(version).__name__}` - at `$.v`")
    if abs(version - SCHEMA_VERSION) > 1:
        raise Rejected(
            Reason.WRONG_VERSION, f"`$.v` == {version}, must be in [{SCHEMA_VERSION - 1}, {SCHEMA_VERSION + 1}]"
        )


def _unparsed(data: bytes, error: msgspec.DecodeError) -> Rejected:
    # The parser stops at the first fault; bytes that are no text at all deserve to be named as such.
    try:
        data.decode()
    except UnicodeDecodeError as not_text:
        return Rejected(Reason.BAD_UTF8, str(not_text))
    return Rejected(Reason.NOT_JSON, str(error))


def in_future(ts: int, now_ms: int, future_ms: int) -> Rejected:
    """What is said of a time that is too far ahead of the clock it is held against (ms)."""
    return Rejected(Reason.FUTURE_TIME, f"`$.ts` == {ts}, more than {future_ms} ms ahead of {now_ms}")


def _check_time(ts: int, now_ms: int, future_ms: int) -> None:
    if ts <= 0:
        raise Rejected(Reason.BAD_TIME, f"`$.ts` == {ts}, must be ms since the epoch, > 0")
    if ts > now_ms + future_ms:
        raise in_future(ts, now_ms, future_ms)


def _check_id(name: str, value: str | None) -> None:
    if value is None:
        return
    if not value.strip():
        raise Rejected(Reason.EMPTY_ID, f"`$.{name}` == {value!r}, must not be empty")
    if len(value) > MAX_ID_CHARS:
        raise Rejected(Reason.BAD_VALUE, f"`$.{name}` has {len(value)} characters, at most {MAX_ID_CHARS} are taken")
