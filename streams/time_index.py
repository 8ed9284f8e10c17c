"""Keys by the time at which they fall due, on disk: what lets state expire in order without holding it in memory."""

from collections.abc import Iterator
from typing import Final

import msgspec

from streams.local_state import LocalState, ordered

# Negatives may come so much later than their window's end; finer buckets cost more entries at a trickle.
BUCKET_MS: Final = 250
_decode = msgspec.msgpack.Decoder(list[bytes]).decode
_encode = msgspec.msgpack.Encoder().encode


def bucket_of(ts: int) -> int:
    """The bucket of a time (ms); times before the epoch are all in the first."""
    return max(0, ts // BUCKET_MS)


class TimeIndex:
    """Keys in buckets of 250 ms. Each drain writes one segment for every bucket that keys were added to."""

    def __init__(self, state: LocalState, prefix: bytes) -> None:
        self._state, self._prefix = state, prefix
        self._new: dict[int, list[bytes]] = {}
        self._removed: dict[bytes, None] = {}

    def add(self, bucket: int, key: bytes) -> None:
        """Files a key under a bucket."""
        keys = self._new.get(bucket)
        if keys is None:
            self._new[bucket] = [key]
        else:
            keys.append(key)

    def keys(self, first: int, last: int) -> list[bytes]:
        """The keys of the buckets `first` <= b < `last`, in the order of the buckets."""
        return [key for _, found in self._segments(first, last) for key in found]

    def pop(self, first: int, last: int) -> list[bytes]:
        """As `keys`, and forgets them."""
        segments = list(self._segments(first, last))
        for name, _ in segments:
            if name is not None:
                self._removed[name] = None
        for bucket in [bucket for bucket in self._new if first <= bucket < last]:
            del self._new[bucket]
        return [key for _, found in segments for key in found]

    def oldest(self, first: int) -> int | None:
        """The first bucket from `first` on that has keys, or None."""
        known = [bucket for bucket in self._new if bucket >= first]
        for name, _ in self._segments(first, 2**62):
            if name is not None:
                known.append(int.from_bytes(name[len(self._prefix) :][:8], "big"))
            break
        return min(known, default=None)

    def drain(self, changes: dict[bytes, bytes | None], number: int) -> None:
        """Adds to `changes` what was added and popped; `number` tells the segments of this drain from all others."""
        for bucket, keys in self._new.items():
            changes[self._prefix + ordered(bucket, number)] = _encode(keys)
        changes |= self._removed
        self._new, self._removed = {}, {}

    def _segments(self, first: int, last: int) -> Iterator[tuple[bytes | None, list[bytes]]]:
        """The segments on disk by bucket, then (with no name) the keys that are not there yet."""
        if last <= first:
            return
        for name, found in self._state.scan(self._prefix + ordered(first), self._prefix + ordered(last)):
            if name not in self._removed:
                yield name, _decode(found)
        for bucket in sorted(bucket for bucket in self._new if first <= bucket < last):
            yield None, self._new[bucket]
