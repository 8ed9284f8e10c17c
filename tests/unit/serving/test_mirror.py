"""What the replica writes, serving reads as one: bundles, items, statistics, vectors, experiments."""

import multiprocessing
import shutil
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from online_learning.models.dense_features import decayed_item_stats
from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retrieval import item_vectors
from online_learning.models.retriever import new_retriever
from online_learning.settings import LearningSettings, ModelSettings
from serving.replica.experiments import Experiments
from serving.replica.item_vectors import ItemVectors, pooled_rows
from serving.replica.items import Items
from serving.shared.dense_bundle import DenseBundle, DenseReader, DenseWriter
from serving.shared.files import lock_folder
from serving.shared.head import File, HeadReader, HeadWriter
from serving.shared.item_stats import ItemStatsWriter, map_item_stats
from serving.shared.mirror import Mirror
from serving.shared.shared_table import SharedTableWriter
from serving.shared.vectors import BLOCK, VectorsWriter, map_vectors
from streams.records import ArmDefinition, Experiment, FeatureRow, Item

MODEL = ModelSettings(dim=4)
WIDTH = 5
HOUR_MS = 3_600_000
TTL_MS = 24 * HOUR_MS
NOW_MS = 1_700_000_000_000


class Writer:
    """The replica's writers on one folder, in the order that the replica uses them."""

    def __init__(self, folder: Path, incarnation: int = 1) -> None:
        self.head = HeadWriter(folder)
        self.items = Items(self.head, MODEL, TTL_MS, incarnation)
        self.table = SharedTableWriter(self.head, WIDTH)
        self.vectors = ItemVectors(self.head, self.items, new_retriever(LearningSettings(model=MODEL)), incarnation)
        self.now_s = 0.0

    def put(self, *items: Item) -> None:
        for item in items:
            if (slot := self.items.put(item.item, item)) is not None:
                self.vectors.add_new()
                self.vectors.add(slot)

    def flush(self) -> bool:
        """Writes everything; time goes on so that all is due."""
        self.now_s += 1_000.0
        self.items.flush_stats()
        self.vectors.add_new()
        while self.vectors.flush(self.table, self.now_s):
            pass
        return self.items.flush_catalogue(self.now_s)

    def learn_all(self, seed: int) -> NDArray[np.uint64]:
        """Gives every key of every item a row; returns the keys."""
        keys = np.unique(self.items.side().keys)
        rows = np.random.default_rng(seed).normal(size=(len(keys), WIDTH)).astype(np.float32)
        self.table.apply(keys, np.ones(len(keys), np.uint16), rows)
        return keys


def item(name: str, scene: str = "", available: bool = True, category: str = "c") -> Item:
    return Item(item=name, scene=scene, available=available, attributes={"category": category, "genres": ["g", "h"]})


def row(name: str, arm: str, values: dict[str, float], at: int, available_at: int = NOW_MS) -> FeatureRow:
    return FeatureRow(1, "item_stats", {"item": name, "arm": arm}, {**values, "at": at}, 1, at, available_at)


def vectors_of(writer: Writer) -> NDArray[np.float32]:
    return item_vectors(pooled_rows(writer.table, writer.items.side()))


# --- dense bundles ------------------------------------------------------------------------------------------------


def test_a_dense_bundle_is_swapped_whole_and_kept_until_a_newer_one(tmp_path: Path) -> None:
    writer = DenseWriter(HeadWriter(tmp_path))
    reader = DenseReader(tmp_path)
    assert reader.current() == DenseBundle()
    writer.swap(
        3, 1, {"sparse": 9}, {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float32(2) * np.ones(())}
    )
    first = reader.current()
    assert (first.version, first.epoch, first.trained_with) == (3, 1, {"sparse": 9})
    assert first.parameters["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first.parameters["s"].shape == ()
    assert reader.current() is first
    with pytest.raises(ValueError, match="read-only"):
        first.parameters["w"][0, 0] = 1
    writer.swap(4, 1, {}, {"w": np.ones(1, np.float32)})
    assert reader.current().version == 4
    # What a request in progress holds stays whole.
    assert first.parameters["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_in_a_folder_that_was_made_anew_the_first_bundle_is_a_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    mirror = Mirror(folder)
    for version in (7, 1):
        folder.mkdir()
        DenseWriter(HeadWriter(folder)).swap(version, 1, {}, {"w": np.ones(1, np.float32)})
        mirror.refresh()
        assert mirror.dense().version == version
        shutil.rmtree(folder)


# --- the catalogue ------------------------------------------------------------------------------------------------


def test_nothing_there_is_an_empty_mirror(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "absent")
    assert not mirror.ready
    assert len(mirror.catalogue) == 0
    assert mirror.vectors().shape == (0, 0)
    assert mirror.experiments() == []
    assert mirror.item("a") is None
    assert mirror.scores(np.ones(3, np.float32)).shape == (0,)
    values, at = mirror.item_stats(np.arange(0), "", NOW_MS)
    assert values.shape == (0, 6)
    assert at.shape == (0,)


def test_items_keep_their_slots_while_the_catalogue_changes(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(item("a", scene="news"), item("ü", available=False), item("c", scene="sport"))
    writer.flush()
    mirror.refresh()
    first = mirror.catalogue
    assert first.ids == ["a", "ü", "c"]
    assert first.index == {"a": 0, "ü": 1, "c": 2}
    assert [first.scenes[code] for code in first.scene_codes] == ["news", "", "sport"]
    assert first.scene("sport") == first.scene_codes[2]
    assert first.scene("unknown") == -1
    assert first.available.tolist() == [True, False, True]
    assert first.item("a") == item("a", scene="news")
    writer.put(item("ü", scene="sport"), item("d"))
    writer.items.put("a", None)
    writer.flush()
    mirror.refresh()
    assert mirror.catalogue.ids == ["a", "ü", "c", "d"]
    assert mirror.catalogue.available.tolist() == [False, True, True, True]
    assert mirror.item("a") is None
    assert mirror.item("ü") == item("ü", scene="sport")
    assert mirror.item("nobody") is None


def test_keys_are_those_of_the_encoder_for_new_changed_and_deleted_items(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    for step in range(4):
        writer.put(*(item(f"i{k}", category=f"c{step}") for k in range(step, 3 * step + 2)))
        if step == 3:
            writer.items.put("i1", None)
        writer.flush()
        mirror.refresh()
        side = mirror.catalogue.keys
        wanted = [key for bags in writer.items.bags for key in bags.keys]
        assert side.keys.tolist() == wanted
        assert np.diff(side.offsets).tolist() == [n for bags in writer.items.bags for n in bags.lengths]
        assert side.rows == len(mirror.catalogue)


def test_a_catalogue_that_is_published_anew_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each change, 100,000 items would keep the replica from its updates for hours."""
    writer = Writer(tmp_path)
    writer.put(*(item(f"i{k}") for k in range(50)))
    writer.flush()
    made: list[Any] = []
    of = Side.of

    def counted(bags: Any, spaces: NDArray[np.uint16]) -> Side:
        made.append(bags)
        return of(bags, spaces)

    monkeypatch.setattr(Side, "of", counted)
    writer.put(*(item(f"i{k}", category="other") for k in range(50)))
    writer.flush()
    assert len(made) == 1
    encoded = FieldEncoder(MODEL).encode_items([item(f"i{k}", category="other") for k in range(50)])
    assert writer.items.side().keys.tolist() == encoded.keys.tolist()


def test_without_a_catalogue_what_was_acted_on_may_be_shown_and_with_one_only_what_it_lists(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.items.put_stats("seen", "", row("seen", "", {}, NOW_MS))
    writer.flush()
    mirror.refresh()
    assert mirror.catalogue.available.tolist() == [True]
    writer.put(item("listed"))
    writer.items.put_stats("late", "", row("late", "", {}, NOW_MS))
    writer.flush()
    mirror.refresh()
    assert dict(zip(mirror.catalogue.ids, mirror.catalogue.available.tolist(), strict=True)) == {
        "seen": False,
        "listed": True,
        "late": False,
    }


def test_the_catalogue_is_swapped_at_most_five_times_a_second_and_only_when_it_changed(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.put(item("a"))
    assert writer.items.flush_catalogue(10.0)
    assert not writer.items.flush_catalogue(20.0)
    writer.put(item("b"))
    assert writer.items.flush_catalogue(20.0)
    writer.put(item("c"))
    assert not writer.items.flush_catalogue(20.1)
    assert writer.items.flush_catalogue(90.0)


def test_a_new_replica_is_taken_up_as_one_and_the_old_items_serve_until_then(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    writer = Writer(tmp_path, incarnation=1)
    writer.put(item("a"), item("b"))
    writer.items.put_stats("b", "", row("b", "", {"rating_count": 7.0}, NOW_MS))
    writer.flush()
    mirror.refresh()
    successor = Writer(tmp_path, incarnation=2)
    # The successor's statistics and vectors are there, its catalogue is not yet.
    mirror.refresh()
    assert mirror.catalogue.ids == ["a", "b"]
    assert mirror.item_stats(np.array([1]), "", NOW_MS)[0][0, 5] == 7.0
    successor.put(item("b"))
    successor.items.put_stats("b", "", row("b", "", {"rating_count": 8.0}, NOW_MS))
    successor.flush()
    mirror.refresh()
    assert mirror.catalogue.ids == ["b"]
    assert mirror.item_stats(np.array([0]), "", NOW_MS)[0][0, 5] == 8.0


# --- item statistics ----------------------------------------------------------------------------------------------


def test_an_arm_sees_its_own_counts_and_the_organic_ones_decayed_to_now(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(item("a"), item("b"), item("c"))
    counts = {"impressions_1h": 8.0, "positives_1h": 4.0, "impressions_1d": 2.0, "positives_1d": 1.0}
    writer.items.put_stats("a", "online", row("a", "online", {**counts, "rating_sum": 9.0}, NOW_MS - HOUR_MS, 50))
    writer.items.put_stats("a", "", row("a", "", {"positives_1h": 10.0, "rating_count": 2.0}, NOW_MS, 70))
    writer.items.put_stats("b", "popularity", row("b", "popularity", counts, NOW_MS))
    writer.flush()
    mirror.refresh()
    values, at = mirror.item_stats(np.array([0, 1, 2]), "online", NOW_MS)
    day = 2 ** (-1 / 24)
    assert values[0] == pytest.approx([4.0, 2.0 + 10.0, 2 * day, day, 9.0, 2.0])
    assert np.isnan(values[1:]).all()
    assert at.tolist() == [70, 0, 0]
    values, at = mirror.item_stats(np.array([0, 1]), "popularity", NOW_MS)
    assert values[0] == pytest.approx([0.0, 10.0, 0.0, 0.0, 0.0, 2.0])
    assert values[1] == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.0, 0.0])
    assert at.tolist() == [70, NOW_MS]
    assert mirror.item_stats(np.array([0]), "unheard of", NOW_MS)[0][0, 1] == 10.0
    assert mirror.item_stats(np.array([0]), "", NOW_MS)[0][0, 1] == 10.0


def test_rows_past_their_time_to_live_and_deleted_rows_are_none(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(item("old"), item("gone"))
    writer.items.put_stats("old", "", row("old", "", {"rating_count": 1.0}, NOW_MS - TTL_MS - 1))
    writer.items.put_stats("gone", "", row("gone", "", {"rating_count": 1.0}, NOW_MS))
    writer.flush()
    writer.items.put_stats("gone", "", None)
    writer.flush()
    mirror.refresh()
    values, at = mirror.item_stats(np.array([0, 1]), "", NOW_MS)
    assert np.isnan(values).all()
    assert at.tolist() == [0, 0]
    assert mirror.item_stats(np.array([0]), "", NOW_MS - 1)[0][0, 5] == 1.0


def test_statistics_outgrow_their_file_in_items_and_arms(tmp_path: Path) -> None:
    head = HeadWriter(tmp_path)
    writer = ItemStatsWriter(head, 1, TTL_MS)
    rng = np.random.default_rng(0)
    known: dict[tuple[int, str], NDArray[np.float32]] = {}
    for most, arms in ((10, ["", "x"]), (5_000, ["x", "y"]), (5_000, ["", "z"])):
        slots = rng.choice(most, min(most, 400), replace=False).astype(np.int64)
        named = [arms[k % 2] for k in range(len(slots))]
        values = rng.random((len(slots), 6)).astype(np.float32)
        when = np.full(len(slots), NOW_MS, np.int64)
        writer.write(slots, named, values, when, when)
        known.update(zip(zip(slots.tolist(), named, strict=True), values, strict=True))
    reader = HeadReader(tmp_path)
    reader.refresh()
    stats = map_item_stats(reader.path(File.ITEM_STATS, reader.generation(File.ITEM_STATS)))
    for (slot, arm), values in known.items():
        found, _ = stats.read(np.array([slot]), arm, NOW_MS)
        organic = known.get((slot, ""), np.zeros(6, np.float32)) if arm else np.zeros(6, np.float32)
        assert found[0] == pytest.approx(values + organic)


def test_the_memory_of_arms_that_have_ended_is_given_back(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(item("a"), item("b"))
    for arm in ("ended", "", "online"):
        writer.items.put_stats("b", arm, row("b", arm, {"positives_1h": 1.0 + len(arm)}, NOW_MS))
    writer.flush()
    writer.items.put_stats("a", "ended", row("a", "ended", {"positives_1h": 1.0}, NOW_MS))
    held = sum(path.stat().st_size for path in tmp_path.glob("item_stats.*"))
    writer.items.keep_arms({"", "online"})
    writer.flush()
    mirror.refresh()
    values = {arm: mirror.item_stats(np.array([0, 1]), arm, NOW_MS)[0][:, 1] for arm in ("ended", "", "online")}
    assert np.array_equal(values[""], [np.nan, 1.0], equal_nan=True)
    assert np.array_equal(values["ended"], values[""], equal_nan=True)
    assert np.array_equal(values["online"], [np.nan, 8.0], equal_nan=True)
    assert held - sum(path.stat().st_size for path in tmp_path.glob("item_stats.*")) >= 1024 * 64


def test_the_arms_of_years_fit(tmp_path: Path) -> None:
    head = HeadWriter(tmp_path)
    writer = ItemStatsWriter(head, 1, TTL_MS)
    arms = [f"an arm of experiment {k}" for k in range(400)]
    where, when = np.zeros(400, np.int64), np.full(400, NOW_MS, np.int64)
    values = np.arange(400 * 6, dtype=np.float32).reshape(400, 6)
    writer.write(where, arms, values, when, when)
    reader = HeadReader(tmp_path)
    reader.refresh()
    stats = map_item_stats(reader.path(File.ITEM_STATS, reader.generation(File.ITEM_STATS)))
    for k in (0, 399):
        assert stats.read(np.array([0]), arms[k], NOW_MS)[0][0].tolist() == values[k].tolist()


def test_the_mirrors_statistics_are_those_of_the_trainers_function(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(item("a"))
    raw = {"impressions_1h": 3.0, "positives_1h": 1.0, "impressions_1d": 5.0, "positives_1d": 2.0, "rating_sum": 4.0}
    writer.items.put_stats("a", "", row("a", "", raw, NOW_MS - 12_345_678))
    writer.flush()
    mirror.refresh()
    wanted = decayed_item_stats(np.array([[3.0, 1, 5, 2, 4, 0]], np.float32), np.array([NOW_MS - 12_345_678]), NOW_MS)
    assert np.array_equal(mirror.item_stats(np.array([0]), "", NOW_MS)[0], wanted)


# --- retrieval vectors --------------------------------------------------------------------------------------------


def test_vectors_follow_rows_items_and_attributes(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(*(item(f"i{k}", category=f"c{k % 7}") for k in range(200)))
    writer.flush()
    mirror.refresh()
    assert mirror.vectors().shape == (200, MODEL.dim + 2)
    assert not mirror.vectors().any()
    keys = writer.learn_all(1)
    writer.vectors.touch(keys)
    writer.flush()
    assert np.array_equal(mirror.vectors(), vectors_of(writer))
    assert mirror.vectors().any(axis=1).all()
    # One item's own row, and an attribute that few items share: at once, without a sweep.
    own = np.array([writer.items.bags[17].keys[0]], np.uint64)
    writer.table.apply(own, np.ones(1, np.uint16), np.full((1, WIDTH), 3.0, np.float32))
    writer.vectors.touch(own)
    writer.vectors.flush(writer.table, writer.now_s)
    assert np.array_equal(mirror.vectors(), vectors_of(writer))
    writer.put(item("i5", category="other"), item("new"))
    writer.flush()
    mirror.refresh()
    assert np.array_equal(mirror.vectors(), vectors_of(writer))
    writer.table.remove(own)
    writer.vectors.touch(own)
    writer.flush()
    assert np.array_equal(mirror.vectors(), vectors_of(writer))


def test_a_row_that_many_items_share_is_swept_in_bounded_pieces(tmp_path: Path) -> None:
    writer, mirror = Writer(tmp_path), Mirror(tmp_path)
    writer.put(*(item(f"i{k}") for k in range(5_000)))
    writer.flush()
    mirror.refresh()
    keys = writer.learn_all(2)
    shared = np.array([key for key in keys.tolist() if key in writer.items.bags[0].keys[1:]], np.uint64)
    writer.vectors.touch(shared)
    assert writer.vectors.flush(writer.table, writer.now_s + 10), "5,000 items are more than one piece"
    assert not writer.vectors.flush(writer.table, writer.now_s + 10)
    assert np.array_equal(mirror.vectors(), vectors_of(writer))
    writer.vectors.touch_all()
    assert writer.vectors.flush(writer.table, writer.now_s + 10)


def _write_vectors_for_ever(folder: Path, ready: Event, stop: Event) -> None:
    lock_folder(folder)
    vectors = VectorsWriter(HeadWriter(folder), 1, 16)
    value = 0.0
    while not stop.is_set():
        value += 1.0
        slots = np.random.default_rng(int(value)).integers(0, 10 * BLOCK, 100).astype(np.int64)
        vectors.write(slots, np.full((100, 16), value, np.float32))
        ready.set()


def test_no_score_is_of_a_half_written_vector(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_write_vectors_for_ever, args=(tmp_path, ready, stop))
    process.start()
    try:
        assert ready.wait(120)
        reader = HeadReader(tmp_path)
        reader.refresh()
        vectors = map_vectors(reader.path(File.VECTORS, reader.generation(File.VECTORS)))
        query = np.ones(16, np.float32)
        for _ in range(5_000):
            # A whole vector is sixteen times one whole number.
            assert not (vectors.scores(query, 10 * BLOCK) % 16).any()
    finally:
        stop.set()
        process.join(30)
        process.kill()


# --- experiments --------------------------------------------------------------------------------------------------


def test_the_newest_definitions_are_read_by_name(tmp_path: Path) -> None:
    experiments, mirror = Experiments(HeadWriter(tmp_path)), Mirror(tmp_path)
    arms = [ArmDefinition(name="x", policy="online"), ArmDefinition(name="y", policy="popularity")]
    one = Experiment(name="one", arms=arms, control="y")
    experiments.put("one", one)
    experiments.put("two", Experiment(name="two", arms=arms, control="x"))
    experiments.flush()
    mirror.refresh()
    assert [experiment.name for experiment in mirror.experiments()] == ["one", "two"]
    newer = Experiment(name="one", arms=arms, control="y", version=2, ramp=0.5)
    experiments.put("one", newer)
    experiments.put("two", None)
    experiments.flush()
    mirror.refresh()
    assert mirror.experiments() == [newer]
