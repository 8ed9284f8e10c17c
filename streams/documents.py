"""The documents of items and users: what is taken of them, by the same rule for everybody who reads them."""

from typing import Final

import msgspec

from streams.dead_letters import Origin, Reason
from streams.intake import Rejected, check_version, parse
from streams.records import Item, User

LAST_MS: Final = (2**63 - 1) // 1_000_000
"""The last time (ms) that 64 bits of nanoseconds hold, as pandas and so Feast does: in the year 2262."""


def deleted_id(record: Origin) -> str:
    """The id of what a record without a value deletes; "" where its key is none, as no document has such a key."""
    try:
        return record.key.decode() if record.key is not None else ""
    except UnicodeDecodeError:
        return ""


def read_document(record: Origin, kind: type[Item] | type[User], max_bytes: int) -> Item | User:
    """The item or user in a record whose value is not null; raises Rejected and nothing else."""
    document = parse(record.value, max_bytes)
    check_version(document)
    try:
        found: Item | User = msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        missing = text.startswith("Object missing")
        raise Rejected(Reason.MISSING_FIELD if missing else Reason.WRONG_TYPE, text) from error
    name, value = ("item", found.item) if isinstance(found, Item) else ("user", found.user)
    if not value.strip():
        raise Rejected(Reason.EMPTY_ID, f"`$.{name}` == {value!r}, must not be empty")
    if not 0 <= found.ts <= LAST_MS:
        raise Rejected(Reason.BAD_TIME, f"`$.ts` == {found.ts}, must be ms since the epoch and before 2262, or 0")
    if record.key is not None and record.key != value.encode():
        # A later null deletes by key: a document under another key could never be deleted.
        raise Rejected(Reason.BAD_VALUE, f"the key is {record.key!r}, must be `$.{name}` == {value!r}")
    return found
