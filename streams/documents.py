"""The documents of items and users: what is taken of them, by the same rule for everybody who reads them."""

import msgspec

from streams.dead_letters import Origin, Reason
from streams.intake import Rejected, check_version, parse
from streams.records import Item, User


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
    if record.key is not None and record.key != value.encode():
        # A later null deletes by key: a document under another key could never be deleted.
        raise Rejected(Reason.BAD_VALUE, f"the key is {record.key!r}, must be `$.{name}` == {value!r}")
    return found
