"""What is asked for, read and checked before anything else happens."""

from typing import Any

import msgspec
from msgspec import Struct

from streams import contexts
from streams.intake import MAX_ID_CHARS

# Far beyond any honest context; a larger one is a mistake or an attack.
_MAX_CONTEXT_BYTES = 256 * 1024


class BadRequest(ValueError):
    """The request cannot be answered as it is; the message says what is wrong and what is allowed."""


class KnownContext(Struct, frozen=True, kw_only=True):
    """The fields of `context` that the pipeline itself understands; all others are features for the model.

    `scene`: only items of this scene are shown ("" means all). `exclude`: items not to be shown. `dry_run`: answer
    without leaving an impression, for probes and previews.
    """

    scene: str = ""
    session: str | None = None
    exclude: list[str] = []
    dry_run: bool = False


class Request(Struct, frozen=True, kw_only=True):
    """A checked request. `ts` is when it was received (ms); `features` is the context without the known fields."""

    request_id: str
    ts: int
    user: str
    n: int
    context: KnownContext = KnownContext()
    features: dict[str, Any] = {}


_OBJECT = msgspec.json.Decoder(dict[str, Any])
_KNOWN = frozenset(KnownContext.__struct_fields__)


def parse(user: bytes, n: int, context: bytes, *, max_items: int, request_id: str, ts: int) -> Request:
    """Checks the three inputs; `context` is a JSON object or empty. Raises BadRequest."""
    if not 1 <= n <= max_items:
        raise BadRequest(f"`n` == {n}, must be in 1..{max_items}")
    known, features = _context(context)
    return Request(request_id=request_id, ts=ts, user=_user(user), n=n, context=known, features=features)


def _user(user: bytes) -> str:
    try:
        name = user.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"`user` is not UTF-8: {error}") from error
    # As of events: whose actions are refused must not be shown anything that they could act on.
    if not name.strip() or len(name) > MAX_ID_CHARS:
        raise BadRequest(f"`user` has {len(name.strip())} characters, must have 1..{MAX_ID_CHARS}")
    return name


def _context(context: bytes) -> tuple[KnownContext, dict[str, Any]]:
    if not context:
        return KnownContext(), {}
    if len(context) > _MAX_CONTEXT_BYTES:
        raise BadRequest(f"`context` has {len(context)} bytes, must have at most {_MAX_CONTEXT_BYTES}")
    try:
        fields = _OBJECT.decode(context)
        known = msgspec.convert({name: fields[name] for name in _KNOWN & fields.keys()}, KnownContext)
    except RecursionError as error:
        raise BadRequest(f"`context` is nested too deep, must have at most {contexts.MOST_LEVELS} levels") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"`context` is not what it must be: {error}") from error
    features = {name: value for name, value in fields.items() if name not in _KNOWN}
    try:
        contexts.check(features)
    except contexts.BadContext as error:
        raise BadRequest(f"`context` {error}") from error
    return known, features
