"""Ten kinds of records that no intake can take, each with the reason that its dead letter must give."""

import json
import random
from typing import Any

from streams.dead_letters import Reason


def document(n: int, now_ms: int) -> dict[str, Any]:
    """A good event."""
    return {"ts": now_ms, "user": f"u{n % 50}", "item": f"i{n % 20}", "kind": "click", "event_id": f"good-{n}"}


def _encoded(good: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(good | changes).encode()


def malformed(chance: random.Random, n: int, now_ms: int, max_bytes: int) -> tuple[bytes | None, Reason]:
    """The n-th malformed value and the reason it must be given; the kind goes round, the variant is drawn."""
    good = document(n, now_ms)
    match n % 10:
        case 0:
            return json.dumps(good).encode().replace(b"u", chance.choice([b"\xff", b"\xc3\x28", b"\xe2\x82"])), (
                Reason.BAD_UTF8
            )
        case 1:
            del good[chance.choice(["ts", "user", "item", "kind"])]
            return json.dumps(good).encode(), Reason.MISSING_FIELD
        case 2:
            field, value = chance.choice(
                [("ts", "yesterday"), ("ts", 1.5), ("user", 7), ("item", ["i"]), ("value", "5"), ("context", [])]
            )
            return _encoded(good, **{field: value}), Reason.WRONG_TYPE
        case 3:
            return _encoded(good, v=chance.choice([-1, 3, 99])), Reason.WRONG_VERSION
        case 4:
            return _encoded(good, context={"padding": "x" * max_bytes}), Reason.TOO_LARGE
        case 5:
            return _encoded(good, ts=chance.choice([0, -1, -now_ms])), Reason.BAD_TIME
        case 6:
            return _encoded(good, ts=now_ms + chance.choice([10**8, 10**12, 10**30])), Reason.FUTURE_TIME
        case 7:
            return _encoded(good, **{chance.choice(["ts", "user", "item", "kind"]): None}), Reason.WRONG_TYPE
        case 8:
            return chance.choice([b"", None]), Reason.EMPTY
        case _:
            value, reason = chance.choice(
                [
                    (b"not json", Reason.NOT_JSON),
                    (b'{"ts": NaN}', Reason.NOT_JSON),
                    (b'{"ts": 1', Reason.NOT_JSON),
                    (b"[1, 2]", Reason.NOT_AN_OBJECT),
                    (b"null", Reason.NOT_AN_OBJECT),
                    (_encoded(good, user=" "), Reason.EMPTY_ID),
                ]
            )
            return value, reason
