"""A checkpoint is there as a whole or not at all, and a broken one is passed over with the reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.checkpoint.store import CheckpointSettings, CheckpointStore
from online_learning.table.settings import (
    AdmissionPolicy,
    AdmissionSettings,
    EvictionPolicy,
    EvictionSettings,
    FullPolicy,
    OptimizerKind,
    OptimizerSettings,
    TableSettings,
)
from online_learning.table.table import Table, TableFull
from streams import failpoints
from tests.unit.online_learning.checkpoint import bucket

bucket.register()
SETTINGS = TableSettings(dim=4, optimizer=OptimizerSettings(kind=OptimizerKind.LAZY_ADAM))


class Trainer:
    """Learns something new in every step and saves it."""

    def __init__(self, path: Path | str, table_settings: TableSettings = SETTINGS, **choices: int) -> None:
        self.table = Table(table_settings, 7)
        self.store = CheckpointStore(path, CheckpointSettings(**choices))
        self.digests: dict[int, int] = {}
        self.step = 0

    def learn(self) -> None:
        self.step += 1
        rng = np.random.default_rng(self.step)
        # After the first step little changes, so that increments stay lighter than their base.
        keys = rng.integers(1, 3000, 2000 if self.step == 1 else 40).astype(np.uint64)
        slots = self.table.find_or_insert(keys, np.zeros(len(keys), np.uint16), self.step * 1000, self.step)
        self.table.apply_gradients(slots, rng.normal(size=(len(keys), 4)).astype(np.float32), self.step)
        self.table.remove(keys[:5], 0, self.step)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            tables={"sparse": self.table.snapshot(whole=self.store.wants_whole())},
            dense={"weight": np.full((2, 3), self.step, np.float32), "step": np.array(self.step)},
            offsets={"examples": {0: self.step, 1: 10 * self.step}},
            epoch=3,
            sequence=self.step,
            meta=f"state {self.step}".encode(),
        )

    def learn_and_save(self) -> int:
        self.learn()
        number = self.store.save(self.checkpoint())
        self.digests[number] = self.table.digest()
        return number

    def check_equal(self, loaded: Checkpoint) -> None:
        step = loaded.sequence
        table = Table.restore(self.table.settings, loaded.tables["sparse"])
        assert table.digest() == self.digests[loaded.number]
        assert np.array_equal(loaded.dense["weight"], np.full((2, 3), step, np.float32))
        assert loaded.dense["step"] == step
        assert loaded.offsets == {"examples": {0: step, 1: 10 * step}}
        assert (loaded.epoch, loaded.meta) == (3, f"state {step}".encode())


@pytest.fixture(params=["path", "file", "memory", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A local folder by path and by URL, fsspec's memory, and an object store that has no rename."""
    name = tmp_path.name
    return {
        "path": str(tmp_path),
        "file": f"file://{tmp_path}",
        "memory": f"memory://{name}/kept",
        "bucket": f"bucket://{name}/kept",
    }[request.param]


def array_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("max_increments", [0, 3, 100])
def test_what_was_saved_is_what_is_loaded_with_and_without_increments(place: str, max_increments: int) -> None:
    trainer = Trainer(place, max_increments=max_increments, keep=2)
    for _ in range(8):
        trainer.learn_and_save()
        loaded = CheckpointStore(place).load_newest()
        assert loaded is not None
        assert loaded.sequence == trainer.step
        trainer.check_equal(loaded)


def test_learning_goes_on_from_a_checkpoint_as_if_nothing_had_happened(place: str) -> None:
    through, stopped = Trainer(f"{place}/a"), Trainer(f"{place}/b")
    for _ in range(3):
        through.learn()
        stopped.learn_and_save()
    loaded = CheckpointStore(f"{place}/b").load_newest()
    assert loaded is not None
    stopped.table = Table.restore(SETTINGS, loaded.tables["sparse"])
    for _ in range(3):
        through.learn()
        stopped.learn()
    assert stopped.table.digest() == through.table.digest()


def test_an_increment_costs_what_changed(place: str) -> None:
    trainer = Trainer(place)
    trainer.learn_and_save()
    base = trainer.store.newest
    trainer.learn_and_save()
    increment = trainer.store.newest
    assert base is not None
    assert increment is not None
    assert increment.parent == base.number
    assert increment.size_bytes < 0.08 * base.size_bytes


def test_a_restarted_trainer_builds_on_what_it_loaded(place: str) -> None:
    trainer = Trainer(place)
    trainer.learn_and_save()
    trainer.store = CheckpointStore(place)
    loaded = trainer.store.load_newest()
    assert loaded is not None
    trainer.table = Table.restore(SETTINGS, loaded.tables["sparse"])
    assert not trainer.store.wants_whole()
    trainer.learn_and_save()
    loaded = CheckpointStore(place).load_newest()
    assert loaded is not None
    trainer.check_equal(loaded)


def test_only_the_newest_are_kept_with_all_that_they_build_on(place: str) -> None:
    trainer = Trainer(place, keep=2, max_increments=2)
    for _ in range(7):
        trainer.learn_and_save()
    # Bases: 1, 4, 7. Number 6 is kept and stands on 4 and 5.
    assert trainer.store.numbers() == [4, 5, 6, 7]
    trainer.learn_and_save()
    # Both of the newest stand on 7: the base before it stays.
    assert trainer.store.numbers() == [4, 7, 8]


def test_no_single_broken_file_takes_all_checkpoints_with_it(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "kept", keep=3, max_increments=4)
    for _ in range(5):
        trainer.learn_and_save()
    for _ in range(12):
        trainer.learn_and_save()
        # A chain with its base, the base before it, and for two saves that one's chain.
        numbers = trainer.store.numbers()
        assert len(numbers) <= 8
        for number in numbers:
            shutil.copytree(tmp_path / "kept", tmp_path / "spoilt")
            dense = tmp_path / "spoilt" / f"{number:012d}" / "dense.arrays"
            dense.write_bytes(bytes([dense.read_bytes()[0] ^ 1]) + dense.read_bytes()[1:])
            loaded = CheckpointStore(tmp_path / "spoilt").load_newest()
            assert loaded is not None
            trainer.check_equal(loaded)
            # Whoever cuts a log behind the oldest leaves what this one needs.
            oldest = trainer.store.oldest()
            assert oldest is not None
            assert oldest.number <= loaded.number < number or loaded.number == numbers[-1]
            shutil.rmtree(tmp_path / "spoilt")


def test_a_base_that_broke_while_it_was_built_upon_is_not_counted_on(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, keep=1, max_increments=1)
    for _ in range(4):
        trainer.learn_and_save()
    assert trainer.store.numbers() == [1, 3, 4]
    (tmp_path / f"{3:012d}" / "table-0.arrays").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="what the increment builds on is broken"):
        trainer.learn_and_save()
    trainer.learn_and_save()
    assert trainer.store.numbers() == [1, 5]


def test_a_place_that_does_not_answer_for_a_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path, keep=1)
    trainer.learn_and_save()
    trainer.learn_and_save()

    def refuse(number: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(trainer.store.storage, "manifest", refuse)
        trainer.learn_and_save()
    assert trainer.store.numbers() == [1, 2, 3]
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    trainer.check_equal(loaded)


def test_an_empty_folder_has_no_checkpoint_and_a_ruined_one_is_an_error(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).load_newest() is None
    trainer = Trainer(tmp_path)
    trainer.learn_and_save()
    for file in array_files(tmp_path / f"{1:012d}"):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints"):
        CheckpointStore(tmp_path).load_newest()


@given(data=st.data())
@settings(max_examples=120, suppress_health_check=list(HealthCheck))
def test_any_broken_byte_or_missing_end_of_any_file_is_noticed_and_the_prefix_before_it_used(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("broken")
    trainer = Trainer(path, keep=4, max_increments=3)
    for _ in range(6):
        trainer.learn_and_save()
    # Bases 1 and 5: 1 <- 2 <- 3 <- 4, 5 <- 6.
    number = data.draw(st.sampled_from(trainer.store.numbers()), label="checkpoint")
    file = data.draw(st.sampled_from(array_files(path / f"{number:012d}")), label="file")
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1), label="byte")
    how = data.draw(st.sampled_from(["flip", "truncate", "missing", "longer"]), label="how")
    if how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
    elif how == "truncate":
        file.write_bytes(content[:place])
    elif how == "longer":
        file.write_bytes(content + b"\0")
    else:
        file.unlink()
    store = CheckpointStore(path)
    expected = {6: 5, 5: 4}.get(number, 6)
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.number == expected
    trainer.check_equal(loaded)
    passed_over = {entry.number for entry in store.broken}
    assert passed_over == set(range(expected + 1, 7))
    assert all(entry.reason for entry in store.broken)


def test_after_a_broken_newest_the_trainer_goes_on_and_never_loses_the_intact_one(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, keep=1, max_increments=100)
    trainer.learn_and_save()
    trainer.learn_and_save()
    trainer.learn_and_save()
    (tmp_path / f"{3:012d}" / "table-0.arrays").write_bytes(b"short")
    trainer.store = CheckpointStore(tmp_path, CheckpointSettings(keep=1, max_increments=100))
    loaded = trainer.store.load_newest()
    assert loaded is not None
    assert loaded.number == 2
    trainer.table = Table.restore(SETTINGS, loaded.tables["sparse"])
    number = trainer.learn_and_save()
    assert number == 4
    assert trainer.store.numbers() == [1, 2, 4]
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    assert loaded.number == 4
    trainer.check_equal(loaded)


def test_a_full_disk_is_a_clear_error_and_the_old_state_stays(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.learn_and_save()

    failpoints.arm(failpoints.parse("trainer.checkpoint-table-written:1:no-space"))
    trainer.learn()
    with pytest.raises(CheckpointError, match="No space left on device"):
        trainer.store.save(trainer.checkpoint())
    failpoints.arm(None)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{1:012d}"]
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    trainer.check_equal(loaded)
    # What the failed save had taken is not lost: the next one is whole.
    assert trainer.store.wants_whole()
    trainer.learn_and_save()
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    trainer.check_equal(loaded)


def test_a_trainer_that_was_taken_over_from_saves_nothing_more(tmp_path: Path) -> None:
    older, newer = Trainer(tmp_path), Trainer(tmp_path)
    for trainer, epoch in ((older, 1), (newer, 2)):
        trainer.learn()
        checkpoint = trainer.checkpoint()
        checkpoint.epoch = epoch
        trainer.store.save(checkpoint)
    older.learn()
    late = older.checkpoint()
    late.epoch = 1
    with pytest.raises(CheckpointError, match="checkpoint 2 is of epoch 2, this trainer's epoch is 1"):
        older.store.save(late)
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    assert (loaded.number, loaded.epoch) == (2, 2)


def test_a_chain_that_broke_on_the_disk_is_not_merged_and_the_next_checkpoint_is_whole(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, max_increments=1)
    trainer.learn_and_save()
    trainer.learn_and_save()
    (tmp_path / f"{2:012d}" / "table-0.arrays").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="what the increment builds on is broken"):
        trainer.learn_and_save()
    assert trainer.store.wants_whole()
    trainer.learn_and_save()
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    assert loaded.sequence == 4
    trainer.check_equal(loaded)


def test_only_the_first_checkpoint_asks_the_trainer_for_a_whole_snapshot(place: str) -> None:
    trainer = Trainer(place, max_increments=2)
    asked = []
    for _ in range(8):
        asked.append(trainer.store.wants_whole())
        trainer.learn_and_save()
    assert asked == [True] + [False] * 7
    parents = [manifest.parent for manifest in map(trainer.store._manifest, trainer.store.numbers())]
    assert None in parents


def test_an_increment_that_does_not_fit_is_refused(place: str) -> None:
    trainer = Trainer(place)
    trainer.learn()
    trainer.table.snapshot()
    trainer.learn()
    increment = Checkpoint(tables={"sparse": trainer.table.snapshot(whole=False)}, dense={}, offsets={})
    with pytest.raises(CheckpointError, match="nothing to build on"):
        trainer.store.save(increment)
    trainer.learn_and_save()
    with pytest.raises(CheckpointError, match="does not build on"):
        trainer.store.save(increment)


def test_a_save_in_the_background_holds_the_state_of_its_moment(place: str) -> None:
    trainer = Trainer(place)
    for _ in range(5):
        trainer.learn()
        digest = trainer.table.digest()
        trainer.store.save_in_background(trainer.checkpoint())
        trainer.learn()
        trainer.store.wait()
        loaded = CheckpointStore(place).load_newest()
        assert loaded is not None
        assert Table.restore(SETTINGS, loaded.tables["sparse"]).digest() == digest


def test_a_failed_save_in_the_background_is_reported_by_the_next_call(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path)
    trainer.learn()
    checkpoint = trainer.checkpoint()
    shutil.rmtree(tmp_path)
    trainer.store.save_in_background(checkpoint)
    with pytest.raises(CheckpointError, match="no checkpoint was saved"):
        trainer.store.wait()
    trainer.store.wait()


# ---- other shapes than the one that was saved


def snapshot_of(rows: int) -> tuple[Table, np.ndarray]:
    table = Table(SETTINGS, 1)
    keys = np.arange(1, rows + 1, dtype=np.uint64)
    for number, key in enumerate(keys):
        table.find_or_insert(key[None], np.zeros(1, np.uint16), number * 1000, number + 1)
    return table, keys


def test_a_table_is_restored_at_another_capacity() -> None:
    table, keys = snapshot_of(100)
    larger = TableSettings(dim=4, max_rows=10_000, full=FullPolicy.REFUSE, optimizer=SETTINGS.optimizer)
    assert Table.restore(larger, table.snapshot()).digest() == table.digest()
    smaller = TableSettings(
        dim=4,
        max_rows=40,
        full=FullPolicy.EVICT,
        eviction=EvictionSettings(policy=EvictionPolicy.LRU),
        optimizer=SETTINGS.optimizer,
    )
    restored = Table.restore(smaller, table.snapshot())
    assert np.flatnonzero(restored.find(keys) >= 0).tolist() == list(range(60, 100))
    assert sorted(restored.changed_since(0).tombstones.tolist()) == keys[:60].tolist()
    refusing = TableSettings(dim=4, max_rows=40, full=FullPolicy.REFUSE, optimizer=SETTINGS.optimizer)
    with pytest.raises(TableFull, match="must be at least the snapshot's 100 rows"):
        Table.restore(refusing, table.snapshot())


def test_another_dimension_or_optimizer_is_refused() -> None:
    table, _ = snapshot_of(10)
    with pytest.raises(ValueError, match="`dim` == 5, must be 4"):
        Table.restore(TableSettings(dim=5, optimizer=SETTINGS.optimizer), table.snapshot())
    with pytest.raises(ValueError, match="must be 'lazy_adam'"):
        Table.restore(TableSettings(dim=4), table.snapshot())


def test_the_admission_filter_survives(place: str) -> None:
    rule = AdmissionSettings(policy=AdmissionPolicy.COUNT, threshold=2, counters=1 << 10)
    trainer = Trainer(place, TableSettings(dim=4, admission=rule))
    key = np.array([5], np.uint64)
    trainer.store.save(trainer.checkpoint())
    assert trainer.table.find_or_insert(key, np.zeros(1, np.uint16), 0, 1)[0] == -1
    trainer.store.save(trainer.checkpoint())
    loaded = CheckpointStore(place).load_newest()
    assert loaded is not None
    table = Table.restore(trainer.table.settings, loaded.tables["sparse"])
    assert table.find_or_insert(key, np.zeros(1, np.uint16), 0, 1)[0] >= 0
