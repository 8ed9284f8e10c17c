"""What the streams count of users: encoded in bounded memory before the local copy, decoded while a batch needs it.

Encoded a user takes a tenth of what the decoded one does, and decoding costs a tenth of asking the disk.
"""

from typing import Final

import msgspec

from streams.aggregates import UserStats
from streams.kept import Kept, Written
from streams.local_state import LocalState

_USER: Final = b"u/"
# Of the bytes object itself (measured).
_OBJECT_BYTES: Final = 40
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(UserStats).decode


class UserTable:
    """Users by name, on disk as far as they do not fit in `memory_bytes`; all that `of` gives may be changed."""

    def __init__(self, disk: LocalState, memory_bytes: int) -> None:
        self._disk = disk
        self.kept: Kept[bytes] = Kept(memory_bytes, self._load, _dump, lambda data: len(data) + _OBJECT_BYTES)
        self._touched: dict[str, UserStats] = {}

    def of(self, user: str) -> UserStats:
        """The counts of a user, to be added to; new ones for one who was never seen."""
        stats = self._touched.get(user)
        if stats is None:
            data = self.kept.get(user)
            stats = self._touched[user] = UserStats() if data is None else _decode(data)
        return stats

    def touched(self) -> dict[str, UserStats]:
        """Whom `of` was asked for since the last drain."""
        return self._touched

    def drain(self, changes: Written) -> None:
        """Adds to `changes` what the touched ones came to."""
        for user, stats in self._touched.items():
            self.kept.put(user, _encode(stats))
        self._touched = {}
        self.kept.drain(changes)

    def _load(self, user: str) -> bytes | None:
        return self._disk.get(_USER + user.encode())


def _dump(user: str, data: bytes | None, changes: Written) -> None:
    changes[_USER + user.encode()] = data
