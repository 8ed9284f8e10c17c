"""What an answer carries besides items and scores. Light: clients read it too."""

import msgspec
from msgspec import Struct


class Versions(Struct, frozen=True, kw_only=True):
    """What an answer was computed with; JSON on the wire.

    `epoch`, `dense` and `sparse` (sequence per table) name the model. `learned` maps each partition of `examples` to
    the next offset such that every example before it was in the tables that this answer read: an example of an event
    is in the answer once its offset is below. `arms` maps experiments to the user's arm. `policy` is what really
    ranked, and `fallback` says why where that is not the arm's own policy.
    """

    epoch: int = 0
    dense: int = 0
    sparse: dict[str, int] = {}
    learned: dict[int, int] = {}
    arms: dict[str, str] = {}
    policy: str = ""
    fallback: str = ""


_DECODER = msgspec.json.Decoder(Versions)
_ENCODER = msgspec.json.Encoder()


def encode_versions(versions: Versions) -> bytes:
    """The JSON of the output `versions`."""
    return _ENCODER.encode(versions)


def decode_versions(data: bytes) -> Versions:
    """Reads the output `versions`; fields that this client does not know are passed over. Raises DecodeError."""
    return _DECODER.decode(data)
