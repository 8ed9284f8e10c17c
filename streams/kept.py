"""Kept values: a stage's state of one kind, decoded values in bounded memory before the local copy on disk."""

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

V = TypeVar("V")
# What an entry costs beside its value: a dict's slot, the key, the object (measured on joins of 100,000 requests).
_ENTRY_BYTES: Final = 250
Written = dict[bytes, bytes | None]


class Kept(Generic[V]):
    """Values by key, the newest used in memory; `limit_bytes` bounds that memory.

    `load` reads a value from disk (None: not there), `dump` adds what a value (None: deleted) changes to the changes of
    a batch, `size` says how many bytes a value takes, the same as long as that value lives.

    Two generations: what is used (`by_age`: only what is new) goes to the young one; when that has half of the memory
    it becomes the old one, and what was in the old one is on disk alone. Only `settle` does so, which the caller calls
    when the changes that `drain` gave are on disk: so memory may exceed the limit by what one batch touches.
    """

    def __init__(
        self,
        limit_bytes: int,
        load: Callable[[Any], V | None],
        dump: Callable[[Any, V | None, Written], None],
        size: Callable[[V], int],
        *,
        by_age: bool = False,
    ) -> None:
        self._by_age = by_age
        self._limit, self._load, self._dump, self._size = limit_bytes, load, dump, size
        self._young: dict[Any, V] = {}
        self._old: dict[Any, V] = {}
        self._young_bytes = self._old_bytes = 0
        self._changed: dict[Any, V | None] = {}
        self.loads = 0
        self.spilled = 0

    @property
    def memory_bytes(self) -> int:
        """What is in memory, as far as `size` tells it."""
        return self._young_bytes + self._old_bytes

    def get(self, key: Any) -> V | None:
        """The value of a key, or None."""
        value = self._young.get(key)
        if value is not None:
            return value
        value = self._old.get(key)
        if value is not None:
            if not self._by_age:
                self._forget_old(key)
                self._remember(key, value)
            return value
        if key in self._changed:
            # Deleted, and still on disk.
            return None
        value = self._load(key)
        if value is not None:
            self.loads += 1
            self._remember(key, value)
        return value

    def peek(self, key: Any) -> V | None:
        """As `get`, for what is not expected to be asked for again."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
        if value is None and key not in self._changed:
            value = self._load(key)
            self.loads += value is not None
        return value

    def put(self, key: Any, value: V) -> None:
        """Sets a value, or says that the one which `get` gave in this batch was changed in place."""
        if (known := self._young.get(key)) is not None:
            if known is not value:
                self._young[key] = value
                self._young_bytes += self._size(value) - self._size(known)
        else:
            self._forget_old(key)
            self._remember(key, value)
        self._changed[key] = value

    def delete(self, key: Any) -> None:
        """Removes a value."""
        if (value := self._young.pop(key, None)) is not None:
            self._young_bytes -= self._size(value) + _ENTRY_BYTES
        self._forget_old(key)
        self._changed[key] = None

    def drain(self, changes: Written) -> None:
        """Adds to `changes` what was put or deleted since the last drain."""
        dump = self._dump
        for key, value in self._changed.items():
            dump(key, value, changes)

    def settle(self) -> None:
        """Says that what was drained is on disk; lets go of what was not used for long, where there is too much."""
        self._changed = {}
        if self._young_bytes > self._limit // 2:
            self.spilled += len(self._old)
            self._old, self._old_bytes = self._young, self._young_bytes
            self._young, self._young_bytes = {}, 0
        if self._old_bytes > self._limit:
            # One batch alone was more than all of the memory.
            self.spilled += len(self._old)
            self._old, self._old_bytes = {}, 0

    def _forget_old(self, key: Any) -> None:
        if (value := self._old.pop(key, None)) is not None:
            self._old_bytes -= self._size(value) + _ENTRY_BYTES

    def _remember(self, key: Any, value: V) -> None:
        self._young[key] = value
        self._young_bytes += self._size(value) + _ENTRY_BYTES
