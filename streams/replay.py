"""Replays a real log through the open door: the log's times moved so that it ends now, its gaps kept.

Progress is kept by the broker, in the same transaction as the events it speaks of: the committed offset of the group
`freshet-replay-<name>` on `events-0` is the next row, and its metadata is the shift. So a replay resumes after Ctrl-C,
kill -9 or a lost broker without sending an event twice or leaving one out (readers of `events` see committed
transactions only), a second replay of the same log fences the first, and a new broker starts from the log's beginning.
A broker forgets the progress of a replay that rests for longer than its `offsets.retention.minutes`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from msgspec import Struct

from streams.datasets import Dataset
from streams.kafka import connection, producer, retry
from streams.records import Event
from streams.settings import KafkaSettings
from streams.topics import EVENTS, ITEMS, USERS
from streams.transactions import transactional_producer

# One transaction costs some 10 ms: at full speed many events share one; at a set pace they wait this long at most.
_BATCH_ROWS = 4_000
_BATCH_S = 0.1


class Progress(Struct, frozen=True):
    """The next row of a log and the shift (ms) that was added to its times when it was first started."""

    row: int
    shift_ms: int


class Report(Struct, frozen=True):
    """What a replay did: rows `first` to `last` (exclusive) of `rows`, in `seconds`; `items` and `users` published."""

    name: str
    rows: int
    first: int
    last: int
    items: int
    users: int
    seconds: float

    @property
    def sent(self) -> int:
        """Events sent by this run."""
        return self.last - self.first


class Replay:
    """One log on its way into `events`; `speed` is in events a second, None as fast as the broker takes them."""

    def __init__(self, dataset: Dataset, settings: KafkaSettings) -> None:
        self.dataset = dataset
        self._settings = settings
        self._group = f"freshet-replay-{dataset.name}"
        self._position = TopicPartition(EVENTS.name, 0)

    def progress(self) -> Progress | None:
        """How far an earlier run came; None where there was none."""
        reader = KafkaConsumer(**connection(self._settings, self._group), group_id=self._group)
        try:
            known = retry(lambda: reader.committed(self._position, metadata=True), "replay progress", 30.0)
        finally:
            reader.close()
        if known is None or known.offset < 0 or not known.metadata:
            return None
        return Progress(row=known.offset, shift_ms=msgspec.json.decode(known.metadata, type=Progress).shift_ms)

    def run(
        self,
        *,
        now_ms: int,
        stop: threading.Event,
        limit: int | None = None,
        speed: float | None = None,
        restart: bool = False,
        tell: Callable[[int], None] = lambda row: None,
    ) -> Report:
        """Sends rows up to `limit` (all without) from where the last run ended, or from the start with `restart`.

        `now_ms` is where a log that is started now ends. `tell(next row)` is called after every commit. Ends early, at
        a commit, when `stop` is set. A restarted log sends its event ids again, at times of its own.
        """
        started_s = time.monotonic()
        # Taking the transactional id first ends a run that was killed in mid-transaction; only then is progress final.
        raw = self._transactional()
        items = users = 0
        try:
            known = None if restart else self.progress()
            if known is None:
                items, users = self._publish_catalogues(now_ms, stop)
                known = Progress(row=0, shift_ms=now_ms - self.dataset.last_ts)
                self._commit(raw, known, [])
            end = min(self.dataset.rows, limit) if limit is not None else self.dataset.rows
            first = row = known.row
            tell(row)
            for batch in _paced(self.dataset.events(first), end - first, speed, stop):
                row += len(batch)
                self._commit(raw, Progress(row=row, shift_ms=known.shift_ms), batch)
                tell(row)
        finally:
            raw.close(timeout=10)
        seconds = time.monotonic() - started_s
        return Report(self.dataset.name, self.dataset.rows, first, row, items, users, seconds)

    def _transactional(self) -> KafkaProducer:
        config = connection(self._settings, self._group) | {
            "acks": "all",
            "transactional_id": self._group,
            "linger_ms": 5,
            "batch_size": 256 * 2**10,
            # A run that was killed holds readers of committed records up for at most this long.
            "transaction_timeout_ms": 10_000,
        }
        raw: KafkaProducer = retry(lambda: transactional_producer(config), self._group, 30.0)
        raw.init_transactions()
        return raw

    def _commit(self, raw: KafkaProducer, progress: Progress, events: list[Event]) -> None:
        raw.begin_transaction()
        now_ms = time.time_ns() // 1_000_000
        sent = []
        for event in events:
            moved = msgspec.structs.replace(event, ts=event.ts + progress.shift_ms)
            value = EVENTS.codec.encode(moved)
            sent.append(raw.send(EVENTS.name, value=value, key=event.user.encode(), timestamp_ms=now_ms))
        metadata = msgspec.json.encode(progress).decode()
        raw.send_offsets_to_transaction({self._position: OffsetAndMetadata(progress.row, metadata)}, self._group)
        raw.flush()
        for future in sent:
            future.get()
        raw.commit_transaction()

    def _publish_catalogues(self, now_ms: int, stop: threading.Event) -> tuple[int, int]:
        items = users = 0
        with producer(self._settings, client_id=self._group, stop=stop) as out:
            for item in self.dataset.items():
                out.send(ITEMS, msgspec.structs.replace(item, ts=now_ms), item.item)
                items += 1
            for user in self.dataset.users():
                out.send(USERS, msgspec.structs.replace(user, ts=now_ms), user.user)
                users += 1
            out.flush(60.0)
        return items, users


def _paced(events: Iterator[Event], count: int, speed: float | None, stop: threading.Event) -> Iterator[list[Event]]:
    """Up to `count` events in batches: full ones without a speed, else those that are due since the last batch."""
    started_s, sent = time.monotonic(), 0
    while sent < count and not stop.is_set():
        due = count
        if speed is not None:
            stop.wait(_BATCH_S)
            due = min(count, int((time.monotonic() - started_s) * speed))
        batch = list(islice(events, min(due - sent, _BATCH_ROWS)))
        if batch:
            yield batch
            sent += len(batch)
        elif speed is None or due == count:
            return
