"""The pusher: rows of the topic `features` into Feast's online store at once and into the offline history in parts."""

import contextlib
import logging
import threading
import time
from pathlib import Path

import msgspec
from kafka import KafkaConsumer

from features.history import History
from features.positions import Position, Positions
from features.settings import FeatureSettings
from features.store import open_store
from features.views import UnknownRow, check_row, parse_key
from features.writer import Change, OnlineWriter, StoreAway
from streams.codec import Unreadable
from streams.failpoints import hit
from streams.health import Health
from streams.kafka import BrokerAway, Stopped, assign, consumer, end_offsets, lag
from streams.records import FeatureRow
from streams.topics import FEATURES

_LOG = logging.getLogger(__name__)

# A part is also written when this many rows wait for it: about 100 MB of them in memory.
_HISTORY_ROWS = 50_000
# The pusher is in no request's way: it waits for a busy Redis where serving would go without.
_REDIS_TIMEOUT_MS = 5_000.0
_AWAY_PAUSE_S = 0.2

Key = tuple[str, ...]


def run(settings: FeatureSettings, stop: threading.Event, health: Health) -> None:
    """Pushes until `stop`; after a kill it repeats rows but loses none, and a repeat changes nothing.

    1. Read what has arrived, for at most `flush_interval_ms`.
    2. Online: of every key the newest record; tombstones delete. Retried until Redis takes it.
    3. Remember the position of the online store.
    4. At most every `history_interval_s`: erase from history what tombstones named, then write its parts.
    5. Remember the position of the history, from which a restart reads again.
    """
    repo = Path(settings.repo_dir)
    repo.mkdir(parents=True, exist_ok=True)
    patient = msgspec.structs.replace(settings, redis_timeout_ms=max(settings.redis_timeout_ms, _REDIS_TIMEOUT_MS))
    writer = OnlineWriter(open_store(patient, publish=True))
    positions = Positions(repo / "positions.json")
    try:
        reader = consumer(settings.kafka, client_id="freshet-features", stop=stop)
    except Stopped:
        return
    try:
        Pusher(settings, reader, writer, History(repo, FEATURES.name), positions, health).run(stop)
    except Stopped:
        pass
    finally:
        reader.close()


class Pusher:
    """One run of the pusher over all partitions of `features`."""

    def __init__(
        self,
        settings: FeatureSettings,
        reader: KafkaConsumer,
        writer: OnlineWriter,
        history: History,
        positions: Positions,
        health: Health,
    ) -> None:
        self._settings, self._reader, self._writer = settings, reader, writer
        self._history, self._positions, self._health = history, positions, health
        self._next: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[Key, FeatureRow]]] = {}
        self._erased: set[Key] = set()
        self._history_due_s = 0.0
        self._pushed = self._unreadable = 0

    def run(self, stop: threading.Event) -> None:
        self._start(stop)
        lag_due_s = 0.0
        while not stop.is_set():
            changes = self._read(stop)
            if changes and not self._push(changes, stop):
                return
            now_s = time.monotonic()
            if now_s >= self._history_due_s or sum(map(len, self._waiting.values())) >= _HISTORY_ROWS:
                self._write_history()
            if now_s >= lag_due_s:
                self._report()
                lag_due_s = now_s + 1.0
        self._write_history()

    def _report(self) -> None:
        self._health.report(rows=self._pushed, unreadable=self._unreadable, redis="up")
        # Without a broker nothing arrives either; the next report knows more.
        with contextlib.suppress(BrokerAway):
            self._health.report(lag=lag(self._reader, {(FEATURES.name, k): n for k, n in self._next.items()}))

    def _start(self, stop: threading.Event) -> None:
        partitions = assign(self._reader, [FEATURES.name], start="beginning", stop=stop)
        ends = end_offsets(self._reader, partitions, stop=stop)
        for p in partitions:
            known = self._positions[p.partition]
            if known.online > ends[p]:
                # The topic was made anew: its old positions mean nothing, and its rows are other rows.
                _LOG.warning("features-%d ends at %d, before position %d: reading it anew", p.partition, ends[p], known)
                known = Position()
                self._positions.save({p.partition: known})
            else:
                self._history.forget_after(p.partition, known.history)
            if known.history:
                self._reader.seek(p, known.history)
            self._next[p.partition] = known.history
            self._waiting[p.partition] = []
        self._history_due_s = time.monotonic() + self._settings.history_interval_s
        hit("features.resumed")

    def _read(self, stop: threading.Event) -> dict[Key, Change]:
        changes: dict[Key, Change] = {}
        interval_s = self._settings.flush_interval_ms / 1000
        due_s = time.monotonic() + interval_s
        while (left_s := due_s - time.monotonic()) > 0 and not stop.is_set():
            polled = self._reader.poll(timeout_ms=max(1, int(left_s * 1000)), max_records=5_000)
            if not polled:
                continue
            # The interval counts from the first row of the batch.
            due_s = due_s if changes else time.monotonic() + interval_s
            for p, records in polled.items():
                for record in records:
                    self._take(p.partition, record.offset, record.key, record.value, changes)
                self._next[p.partition] = self._reader.position(p)
            if len(changes) >= 5_000:
                break
        return changes

    def _take(self, partition: int, offset: int, key: bytes, value: bytes | None, changes: dict[Key, Change]) -> None:
        online = offset >= self._positions[partition].online
        try:
            if value is None:
                view, entities = parse_key(key.decode())
                name: Key = (view.name, *entities.values())
                change: Change = None
                self._erased.add(name)
                self._waiting[partition] = [kept for kept in self._waiting[partition] if kept[0] != name]
            else:
                row: FeatureRow = FEATURES.codec.decode(value)
                name, change = check_row(row), row
                self._waiting[partition].append((name, row))
        except (Unreadable, UnknownRow, UnicodeDecodeError) as error:
            # An internal topic: its writer is at fault, and stopping would stop all users' features.
            self._unreadable += 1
            _LOG.error("features-%d offset %d left out: %s", partition, offset, error)
            return
        if online:
            changes.pop(name, None)
            changes[name] = change

    def _push(self, changes: dict[Key, Change], stop: threading.Event) -> bool:
        hit("features.pushing")
        while not stop.is_set():
            try:
                self._pushed += self._writer.apply(changes)
            except StoreAway as error:
                self._health.report(redis="away", redis_error=str(error))
                stop.wait(_AWAY_PAUSE_S)
                continue
            hit("features.pushed")
            known = self._positions
            self._positions.save(
                {k: Position(online=max(n, known[k].online), history=known[k].history) for k, n in self._next.items()}
            )
            hit("features.online-saved")
            return True
        return False

    def _write_history(self) -> None:
        # Erase first: a row that came after its key's tombstone stays.
        if self._erased:
            self._history.erase(sorted(self._erased))
            hit("features.erased")
        for partition, rows in self._waiting.items():
            first, following = self._positions[partition].history, self._next[partition]
            if rows:
                self._history.write(partition, first, following - 1, [row for _, row in rows])
        self._positions.save(
            {k: Position(online=max(n, self._positions[k].online), history=n) for k, n in self._next.items()}
        )
        hit("features.history-saved")
        self._waiting = {k: [] for k in self._waiting}
        self._erased = set()
        self._history_due_s = time.monotonic() + self._settings.history_interval_s
