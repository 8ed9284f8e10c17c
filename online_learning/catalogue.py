"""Items and users as their compacted topics have them: attributes for the fields, and erasure."""

from collections.abc import Mapping
from typing import Any

from streams.records import Item, User


class Catalogue:
    """The newest state of every item and user, in memory.

    It is not part of the checkpoint: the compacted topics hold it, and a starting trainer reads them to their end.
    """

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._users: dict[str, Mapping[str, Any]] = {}

    @property
    def sizes(self) -> tuple[int, int]:
        """Items and users."""
        return len(self._items), len(self._users)

    def item(self, item: str) -> Item | None:
        """The item's newest state, or None."""
        return self._items.get(item)

    def user_attributes(self, user: str) -> Mapping[str, Any] | None:
        """The user's attributes, or None."""
        return self._users.get(user)

    def put_item(self, item: str, state: Item | None) -> None:
        """Takes an item's new state; None deletes it."""
        if state is None:
            self._items.pop(item, None)
        else:
            self._items[item] = state

    def put_user(self, user: str, state: User | None) -> None:
        """Takes a user's new state; None erases the user."""
        if state is None:
            self._users.pop(user, None)
        else:
            self._users[user] = state.attributes
