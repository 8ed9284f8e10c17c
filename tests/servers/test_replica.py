"""The replica on a real Kafka: items, statistics, experiments and rows reach shared memory, and nothing stops it."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from infra.chaos.disk import fill, small_disk
from online_learning.models.fields import FieldEncoder
from online_learning.models.retrieval import item_vectors
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.updates.position import LogPosition
from online_learning.updates.publisher import Publisher
from serving.replica import run
from serving.settings import ServingSettings
from serving.shared.files import AlreadyRunning
from serving.shared.mirror import Mirror
from streams.health import Health
from streams.kafka import producer
from streams.records import Experiment, FeatureRow, Item
from streams.topics import EXPERIMENTS, FEATURES, ITEMS
from tests.emptied import emptied
from tests.stacks import RunningStack, wait_until
from tests.threads import in_thread

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

NOW_MS = 1_800_000_000_000
WAIT_S = 60.0
NESTED = b"[" * 100_000 + b"]" * 100_000


@contextmanager
def running(settings: ServingSettings) -> Iterator[Health]:
    """A replica in a thread, ready; an error of its own fails the test."""
    with in_thread(run, settings, lambda health: bool(health.values)) as health:
        yield health


@pytest.fixture
def settings(fresh_kafka: RunningStack, tmp_path: Path) -> Iterator[ServingSettings]:
    folder = tmp_path / "shm"
    yield ServingSettings(kafka=fresh_kafka.settings.kafka, shm_dir=str(folder))
    shutil.rmtree(folder, ignore_errors=True)


def item(k: int, available: bool = True) -> Item:
    attributes: dict[str, str | int | float | list[str]] = {"category": f"c{k % 3}", "genres": ["g", f"h{k % 2}"]}
    return Item(item=f"i{k}", scene="even" if k % 2 == 0 else "odd", available=available, attributes=attributes)


def stats(k: int, arm: str, positives: float) -> FeatureRow:
    values = {"positives_1d": positives, "at": NOW_MS}
    return FeatureRow(1, "item_stats", {"item": f"i{k}", "arm": arm}, values, 1, NOW_MS, NOW_MS + 5)


def impossible_items() -> list[bytes]:
    """What outsiders may send, and what would stop whoever takes it: of another key, nested, beyond 64 bits."""
    return [
        b'{"item": "i9"}',
        b'{"item": "i8", "x": ' + NESTED + b"}",
        b'{"item": "i8", "attributes": {"a": 1%030d}}' % 0,
    ]


def of_online(mirror: Mirror, slot: int) -> float:
    return float(mirror.item_stats(np.array([slot]), "online", NOW_MS)[0][0, 3])


def until(mirror: Mirror, condition: Callable[[], bool], what: str) -> None:
    def holds() -> bool:
        mirror.refresh()
        return condition()

    wait_until(holds, WAIT_S, what)


def test_everything_that_serving_reads_arrives_and_follows_changes(settings: ServingSettings) -> None:
    mirror = Mirror(Path(settings.shm_dir))
    experiment = settings.experiments[0]

    with producer(settings.kafka) as sender:
        # Half of it is there before the replica is, half of it comes later.
        for k in range(20):
            sender.send(ITEMS, item(k), f"i{k}")
            sender.send(FEATURES, stats(k, "", k), f"item_stats|i{k}|")
        user = FeatureRow(1, "user_stats", {"user": "u"}, {}, 1, NOW_MS, NOW_MS)
        sender.send(FEATURES, user, "user_stats|u")
        sender.flush(30)
        with running(settings) as health:
            until(mirror, lambda: len(mirror.catalogue) == 20, "twenty items")
            assert mirror.ready
            assert health.values["rows"] == 0
            slots = np.array([mirror.catalogue.index[f"i{k}"] for k in range(20)])
            assert mirror.item_stats(slots, "online", NOW_MS)[0][:, 3].tolist() == list(range(20))
            assert not mirror.table.lookup(mirror.catalogue.keys.keys)[1].any()

            for k in range(20, 30):
                sender.send(ITEMS, item(k), f"i{k}")
            sender.send(FEATURES, stats(3, "online", 100), "item_stats|i3|online")
            sender.send(FEATURES, None, "item_stats|i4|")
            sender.send(ITEMS, None, "i5")
            sender.send(ITEMS, item(6, available=False), "i6")
            sender.send(EXPERIMENTS, experiment, experiment.name)
            # What nobody can read is passed over.
            sender.send_bytes(ITEMS.name, b"{", b"i7")
            sender.send_bytes(FEATURES.name, b"\xc1", b"item_stats|i7|")
            sender.send_bytes(FEATURES.name, b"\xc1", b"item_stats")
            sender.send_bytes(EXPERIMENTS.name, b'{"name": 3}', b"x")
            for impossible in impossible_items():
                sender.send_bytes(ITEMS.name, impossible, b"i8")
            # Requests would fail on it.
            sender.send(EXPERIMENTS, Experiment(name="x", control="none", arms=[]), "x")
            sender.send_bytes(EXPERIMENTS.name, b'{"name": ' + NESTED + b"}", b"x")
            sender.flush(30)
            until(mirror, lambda: len(mirror.catalogue) == 30, "thirty items")
            until(mirror, lambda: mirror.experiments() == [experiment], "the experiment")
            until(mirror, lambda: of_online(mirror, slots[3]) == 103, "the arm's own statistics")
            sender.send(EXPERIMENTS, None, experiment.name)
            until(mirror, lambda: mirror.experiments() == [], "its end")
            until(mirror, lambda: of_online(mirror, slots[3]) == 3, "room where the arm's statistics were")
            sender.send(FEATURES, stats(7, "online", 1_000), "item_stats|i7|online")
            sender.flush(30)
            sender.send(EXPERIMENTS, experiment, experiment.name)
            until(mirror, lambda: of_online(mirror, slots[3]) == 103, "the statistics of an arm that is back")
            until(mirror, lambda: of_online(mirror, slots[7]) == 1_007, "what came while nobody asked for it")
            until(mirror, lambda: health.values["unreadable"] == 8, "eight records passed over")
            assert not mirror.catalogue.available[slots[[5, 6]]].any()
            assert mirror.catalogue.available[slots[7]]
            values, at = mirror.item_stats(slots[[3, 4]], "online", NOW_MS)
            assert values[0, 3] == 103
            assert np.isnan(values[1]).all()
            assert at.tolist() == [NOW_MS + 5, 0]

            table = Table(TableSettings(dim=settings.learning.model.dim + 1))
            publisher = Publisher(settings.kafka)
            publisher.begin_epoch(LogPosition(), table, {0: 0})
            keys = mirror.catalogue.keys
            table.find_or_insert(keys.keys, keys.spaces, NOW_MS, publisher.version)
            publisher.publish_sparse(table, {0: 1})
            publisher.publish_dense({"bias": np.ones(2, np.float32)})
            publisher.flush(30)
            until(mirror, lambda: mirror.lineage().learned == {0: 1} and mirror.dense().version == 1, "rows and bundle")
            assert mirror.table.digest() == table.digest()
            side = FieldEncoder(settings.learning.model).encode_items([item(k) for k in (0, 29)])
            pooled = table.gather_pooled(table.find(side.keys), side.offsets, "mean")
            wanted = item_vectors(pooled.reshape(2, side.fields, table.dim))
            both = [mirror.catalogue.index["i0"], mirror.catalogue.index["i29"]]
            until(mirror, lambda: np.array_equal(mirror.vectors()[both], wanted), "the vectors")
            publisher.close()

            with pytest.raises(AlreadyRunning):
                run(settings, threading.Event(), Health(None))
        # A replica that starts again finds the same, and readers that mapped the old one follow it.
        with running(settings):
            until(mirror, lambda: len(mirror.catalogue) == 30 and mirror.lineage().learned == {0: 1}, "all of it again")
            assert mirror.table.digest() == table.digest()
            assert not mirror.catalogue.available[mirror.catalogue.index["i6"]]
            available = {mirror.catalogue.ids[k] for k in np.flatnonzero(mirror.catalogue.available)}
            assert available == {f"i{k}" for k in range(30)} - {"i5", "i6"}


def test_a_log_that_begins_anew_is_followed_from_its_beginning(
    fresh_kafka: RunningStack, settings: ServingSettings
) -> None:
    """The trainer's checkpoints and all topics are gone: the next trainer takes the same epoch once more."""
    mirror = Mirror(Path(settings.shm_dir))
    with running(settings):
        for first, frames in ((1, 4), (500, 9)):
            table = Table(TableSettings(dim=settings.learning.model.dim + 1))
            publisher = Publisher(settings.kafka)
            assert publisher.begin_epoch(LogPosition(), table, {0: 0}) == 1
            for n in range(frames):
                keys = np.arange(first + n, first + n + 10, dtype=np.uint64)
                table.find_or_insert(keys, np.ones(10, np.uint16), NOW_MS, publisher.version)
                publisher.publish_sparse(table, {0: first + n})
                publisher.flush(30)
            publisher.close()
            until(mirror, lambda last=first + frames - 1: mirror.lineage().learned == {0: last}, "the last frame")
            assert mirror.table.digest() == table.digest()
            emptied(fresh_kafka)


def test_without_a_catalogue_what_was_acted_on_can_be_recommended(settings: ServingSettings) -> None:
    mirror = Mirror(Path(settings.shm_dir))
    with producer(settings.kafka) as sender:
        sender.send(FEATURES, stats(1, "", 5.0), "item_stats|i1|")
        sender.flush(30)
    with running(settings):
        until(mirror, lambda: len(mirror.catalogue) == 1, "the item")
        assert mirror.catalogue.available.tolist() == [True]


def test_without_room_in_shared_memory_it_waits_and_says_so_and_goes_on(settings: ServingSettings) -> None:
    folder = Path(settings.shm_dir)
    with small_disk(folder) as mounted, producer(settings.kafka) as sender:
        if not mounted:
            pytest.skip("this process may not mount a disk of its own")
        ballast = fill(folder)
        sender.send(ITEMS, item(0), "i0")
        sender.flush(30)
        with in_thread(run, settings, lambda health: bool(health.values)) as health:
            wanted = f"room in serving.shm_dir: {folder}: no room for "
            wait_until(lambda: str(health.values["waiting_for"]).startswith(wanted), WAIT_S, wanted)
            ballast.unlink()
            mirror = Mirror(folder)
            until(mirror, lambda: len(mirror.catalogue) == 1, "the item, when there is room")
            wait_until(lambda: health.values["waiting_for"] == "", WAIT_S, "no complaint any more")

            # In the midst of its work: readers go on with what they have.
            ballast = fill(folder)
            catalogue = mirror.catalogue
            for k in range(1, 3_000):
                sender.send(ITEMS, item(k), f"i{k}")
            sender.flush(30)
            wait_until(lambda: str(health.values["waiting_for"]).startswith(wanted), WAIT_S, wanted)
            mirror.refresh()
            assert mirror.catalogue is catalogue
            ballast.unlink()
            until(mirror, lambda: len(mirror.catalogue) == 3_000, "all items, when there is room again")
