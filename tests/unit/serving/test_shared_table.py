"""The shared table is a dict that other processes read: never torn, never blocked, and it outgrows its file."""

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from online_learning.table.digest import Encoding, digest_rows
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from serving.shared.files import AlreadyRunning, SharedMemoryFull, has_writer, lock_folder
from serving.shared.head import HEAD, File, HeadReader, HeadWriter, Lineage, Unreadable
from serving.shared.shared_table import SharedTableReader, SharedTableWriter

WIDTH = 3


def keys(*values: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint64]]":
    return np.array(values, np.uint64)


def filled(writer: SharedTableWriter, first: int, n: int, value: float) -> None:
    named = np.arange(first, first + n, dtype=np.uint64)
    writer.apply(named, np.ones(n, np.uint16), np.full((n, writer.width), value, np.float32))


class SharedTableIsADict(RuleBasedStateMachine):
    """One writer, one reader that maps at any time, against a dict."""

    folder: Path

    @initialize(factory=st.just(None))
    def begin(self, factory: None) -> None:
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.folder = Path(self.directory.name)
        self.head = HeadWriter(self.folder)
        self.writer = SharedTableWriter(self.head, WIDTH)
        self.writer.publish()
        self.reader = SharedTableReader(self.folder)
        self.rows: dict[int, list[float]] = {}
        self.seed = 0

    @rule(named=st.lists(st.integers(1, 60) | st.integers(1, 2**64 - 1), max_size=30))
    def apply(self, named: list[int]) -> None:
        self.seed += 1
        values = np.random.default_rng(self.seed).normal(size=(len(named), WIDTH)).astype(np.float32)
        self.writer.apply(keys(*named), np.ones(len(named), np.uint16), values)
        self.rows.update(zip(named, values.tolist(), strict=True))

    @rule(first=st.integers(100, 2**40), n=st.integers(1, 6000))
    def apply_many(self, first: int, n: int) -> None:
        filled(self.writer, first, n, 0.5)
        self.rows.update({key: [0.5] * WIDTH for key in range(first, first + n)})

    @rule(named=st.lists(st.integers(0, 60) | st.integers(100, 2000), max_size=40))
    def remove(self, named: list[int]) -> None:
        there = len(self.rows)
        for key in named:
            self.rows.pop(key, None)
        assert self.writer.remove(keys(*named)) == there - len(self.rows)

    @rule()
    def new_table_beside_the_old(self) -> None:
        writer = SharedTableWriter(self.head, WIDTH)
        filled(writer, 1, 5, 2.0)
        # Readers still see the old one.
        self.equal()
        writer.publish()
        self.writer, self.rows = writer, {key: [2.0] * WIDTH for key in range(1, 6)}

    @invariant()
    def equal(self) -> None:
        if not hasattr(self, "rows"):
            return
        asked = [*list(self.rows)[:500], 0, 61, 2**63 + 5]
        values, found = self.reader.lookup(keys(*asked))
        assert found.tolist() == [key in self.rows for key in asked]
        assert values.tolist() == [self.rows.get(key, [0.0] * WIDTH) for key in asked]

    def teardown(self) -> None:
        if hasattr(self, "rows"):
            assert len(self.writer) == len(self.rows)
            wanted = digest_rows(
                keys(*self.rows), np.array(list(self.rows.values()), np.float32).reshape(len(self.rows), WIDTH)
            )
            assert self.reader.digest() == self.writer.digest() == wanted
            self.directory.cleanup()


TestSharedTable = SharedTableIsADict.TestCase
TestSharedTable.settings = settings(max_examples=15, stateful_step_count=15)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_digest_equals_the_trainers(tmp_path: Path, encoding: Encoding) -> None:
    trainer = Table(TableSettings(dim=WIDTH))
    named = np.arange(1, 5000, dtype=np.uint64)
    trainer.find_or_insert(named, np.ones(len(named), np.uint16), 0, 1)
    # Beyond what fp16 can hold.
    trainer.find_or_insert(keys(5000), np.ones(1, np.uint16), 0, 1, initial=np.array([[1e5, -1e5, 1.0]], np.float32))
    export = trainer.export(keys(*named, 5000))
    writer = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
    writer.apply(export.keys, export.spaces, export.rows)
    writer.publish()
    reader = SharedTableReader(tmp_path)
    assert reader.digest(encoding) == trainer.digest(encoding)
    writer.remove(keys(77))
    assert reader.digest(encoding) != trainer.digest(encoding)


def test_without_a_replica_nothing_is_found(tmp_path: Path) -> None:
    reader = SharedTableReader(tmp_path / "absent")
    rows, found = reader.lookup(keys(1, 2))
    assert rows.shape == (2, 0)
    assert not found.any()
    assert reader.lineage() == Lineage()
    assert reader.digest() == 0


def test_a_folder_made_anew_is_taken_up(tmp_path: Path) -> None:
    reader = SharedTableReader(tmp_path)
    for value in (1.0, 2.0):
        for path in tmp_path.iterdir():
            path.unlink()
        writer = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
        filled(writer, 5, 1, value)
        writer.publish()
        reader.refresh()
        assert reader.lookup(keys(5))[0].tolist() == [[value] * WIDTH]


def test_a_row_whose_writer_died_in_the_middle_is_absent_until_the_next_writer(tmp_path: Path) -> None:
    writer = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
    filled(writer, 1, 10, 1.0)
    writer.publish()
    reader = SharedTableReader(tmp_path)
    # What kill -9 leaves: the row of key 4 (the fourth row) with an odd word.
    writer._views.rows[3 * writer._views.stride] |= np.uint64(1)
    rows, found = reader.lookup(np.arange(1, 11, dtype=np.uint64))
    assert found.tolist() == [True] * 3 + [False] + [True] * 6
    assert rows[3].tolist() == [0.0] * WIDTH
    successor = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
    filled(successor, 1, 10, 2.0)
    successor.publish()
    rows, found = reader.lookup(np.arange(1, 11, dtype=np.uint64))
    assert found.all()
    assert (rows == 2.0).all()


def _write_for_ever(folder: Path, ready: Event, stop: Event) -> None:
    lock_folder(folder)
    writer = SharedTableWriter(HeadWriter(folder), 33)
    value, size = 0.0, 1
    filled(writer, 1, 200, value)
    writer.publish()
    ready.set()
    while not stop.is_set():
        value += 1.0
        filled(writer, 1, 200, value)
        # Other keys come and go, so that rows are reused for other keys, and the table grows now and then.
        filled(writer, 1000, 200, -value)
        writer.remove(np.arange(1000, 1200, dtype=np.uint64))
        if int(value) % 50 == 0:
            size = min(4 * size, 1 << 16)
            filled(writer, 10_000, size, 0.0)


def test_no_reader_sees_a_torn_row_or_another_keys_row(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_write_for_ever, args=(tmp_path, ready, stop))
    process.start()
    try:
        assert ready.wait(120)
        reader = SharedTableReader(tmp_path)
        stable, fleeting = np.arange(1, 201, dtype=np.uint64), np.arange(1000, 1200, dtype=np.uint64)
        last, distinct = 0.0, 0
        generations: set[int] = set()
        while distinct < 300 or len(generations) < 3:
            assert process.is_alive()
            rows, found = reader.lookup(stable)
            assert found.all()
            assert (rows == rows[:, :1]).all()
            assert rows.min() >= last
            distinct += int(rows.max() > last)
            last = float(rows.min())
            rows, found = reader.lookup(fleeting)
            assert (rows[found] == rows[found][:, :1]).all()
            assert (rows[found] < 0).all()
            generations.add(reader._generation)
    finally:
        stop.set()
        process.join(30)
        process.kill()


def test_lineage_is_read_as_one(tmp_path: Path) -> None:
    head, reader = HeadWriter(tmp_path), HeadReader(tmp_path)
    reader.refresh()
    assert reader.lineage() == Lineage()
    lineage = Lineage(3, 2**40, {0: 5, 1: 2**50, 199: 1}, 1_700_000_000_000, 1_700_000_000_001)
    head.write_lineage(lineage)
    assert reader.lineage() == lineage
    with pytest.raises(ValueError, match="201 examples partitions"):
        head.write_lineage(Lineage(learned=dict.fromkeys(range(201), 0)))


def test_a_lineage_whose_writer_died_is_the_one_before_until_the_next_writer(tmp_path: Path) -> None:
    head, reader = HeadWriter(tmp_path), HeadReader(tmp_path)
    reader.refresh()
    head.write_lineage(Lineage(1, 1))
    assert reader.lineage() == Lineage(1, 1)
    head._words[2] |= np.uint64(1)
    head._words[17] = 7
    assert reader.lineage() == Lineage(1, 1)
    HeadWriter(tmp_path)
    assert reader.lineage() == Lineage()


def test_a_folder_of_another_layout_is_refused_by_readers_and_replaced_by_the_writer(tmp_path: Path) -> None:
    head = HeadWriter(tmp_path)
    head._words[1] = 99
    with pytest.raises(Unreadable, match="layout 99"):
        HeadReader(tmp_path).refresh()
    HeadWriter(tmp_path)
    assert HeadReader(tmp_path).refresh()


def test_generations_go_on_over_restarts_and_only_the_current_is_kept(tmp_path: Path) -> None:
    for wanted in range(1, 5):
        writer = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
        writer.publish()
        reader = HeadReader(tmp_path)
        reader.refresh()
        assert reader.generation(File.TABLE) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == [HEAD, "table.4"]


def test_a_full_shared_memory_is_a_clear_error_and_readers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SharedTableWriter(HeadWriter(tmp_path), WIDTH)
    filled(writer, 1, 100, 1.0)
    writer.publish()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(SharedMemoryFull, match="no room for"):
        filled(writer, 1000, 10_000, 1.0)
    monkeypatch.undo()
    reader = SharedTableReader(tmp_path)
    assert reader.lookup(np.arange(1, 101, dtype=np.uint64))[1].all()
    filled(writer, 1000, 10_000, 3.0)
    assert reader.lookup(keys(1000, 10_999))[0].tolist() == [[3.0] * WIDTH] * 2


@given(st.integers(0, 3))
@settings(max_examples=4)
def test_rows_of_another_width_are_refused(width: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        writer = SharedTableWriter(HeadWriter(Path(folder)), 4)
        with pytest.raises(ValueError, match="must be"):
            writer.apply(keys(1), np.ones(1, np.uint16), np.zeros((1, width), np.float32))


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    import os

    assert not has_writer(tmp_path)
    held = lock_folder(tmp_path)
    assert has_writer(tmp_path)
    with pytest.raises(AlreadyRunning, match="another replica"):
        lock_folder(tmp_path)
    os.close(held)
    assert not has_writer(tmp_path)
    os.close(lock_folder(tmp_path))
