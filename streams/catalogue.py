"""The rare inputs `items` and `users`: checked, and a user's profile handed to the feature store."""

from typing import Any

import msgspec

from streams import topics
from streams.aggregates import USER_PROFILE, feature_key
from streams.dead_letters import Origin, dead_letter
from streams.documents import deleted_id, read_document
from streams.intake import Rejected
from streams.outbox import Outbox
from streams.records import SCHEMA_VERSION, FeatureRow, Item, User
from streams.settings import StreamsSettings


def take_item(record: Origin, settings: StreamsSettings, now_ms: int, out: Outbox) -> None:
    """Checks an item's document; what cannot be read goes to the dead letters."""
    if record.value is not None:
        _checked(record, Item, settings, now_ms, out)


def take_user(record: Origin, settings: StreamsSettings, now_ms: int, out: Outbox) -> None:
    """Turns a user's document into the row of `user_profile`; null drops the row."""
    if record.value is None:
        if user := deleted_id(record):
            out.bytes(topics.FEATURES.name, None, feature_key(USER_PROFILE, {"user": user}).encode())
        return
    found = _checked(record, User, settings, now_ms, out)
    if isinstance(found, User):
        row = FeatureRow(
            v=SCHEMA_VERSION,
            view=USER_PROFILE,
            entities={"user": found.user},
            values={"attributes": msgspec.json.encode(found.attributes).decode()},
            version=record.offset,
            ts=found.ts or now_ms,
            available_at=now_ms,
        )
        out.record(topics.FEATURES, row, feature_key(row.view, row.entities))


def _checked(record: Origin, kind: Any, settings: StreamsSettings, now_ms: int, out: Outbox) -> Item | User | None:
    try:
        return read_document(record, kind, settings.max_record_bytes)
    except Rejected as rejected:
        key, value = dead_letter(record, rejected.reason, rejected.detail, now_ms)
        out.bytes(topics.DEAD_LETTERS.name, value, key, 0)
        return None
