"""What a real log is to freshet: events in time order, and the catalogues of its items and users."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from streams.records import Event, Item, User


class DatasetMissing(FileNotFoundError):
    """The files of a data set are not where they were looked for."""


class Dataset(Struct, frozen=True):
    """A log, read lazily.

    `events(start)` yields the events from row `start` on, in time order, with the log's own times and the event id
    `<name>-<row>`; the same files always give the same events. `rows` is how many there are and `last_ts` the time (ms)
    of the last. All belong to `scene`, and ids carry a prefix of their own, so that data sets do not collide.
    """

    name: str
    scene: str
    rows: int
    last_ts: int
    events: Callable[[int], Iterator[Event]]
    items: Callable[[], Iterator[Item]]
    users: Callable[[], Iterator[User]]
