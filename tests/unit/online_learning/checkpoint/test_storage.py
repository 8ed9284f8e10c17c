"""Without a rename, too, a checkpoint is there as a whole or not at all."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.checkpoint.checkpoint import CheckpointError
from online_learning.checkpoint.storage import ObjectStorage, storage_at
from online_learning.checkpoint.store import CheckpointSettings, CheckpointStore
from online_learning.table.table import Table
from tests.unit.online_learning.checkpoint.bucket import Bucket
from tests.unit.online_learning.checkpoint.test_store import SETTINGS, Trainer

# A save of one table: its rows, the dense arrays, the manifest.
PUTS = 3


@pytest.fixture(autouse=True)
def connected() -> Iterator[None]:
    yield
    Bucket.puts_left = None


def new_place() -> str:
    return f"bucket://{uuid.uuid4().hex}/kept"


def keys_of(place: str) -> list[str]:
    prefix = place.removeprefix("bucket://") + "/"
    return sorted(key for key in Bucket.objects if key.startswith(prefix))


@given(data=st.data())
@settings(max_examples=100)
def test_any_broken_byte_or_missing_end_of_any_object_is_noticed_and_the_prefix_before_it_used(
    data: st.DataObject,
) -> None:
    place = new_place()
    trainer = Trainer(place, keep=4, max_increments=3)
    for _ in range(6):
        trainer.learn_and_save()
    # Bases 1 and 5: 1 <- 2 <- 3 <- 4, 5 <- 6.
    key = data.draw(st.sampled_from(keys_of(place)), label="object")
    number = int(key.removeprefix(place.removeprefix("bucket://") + "/")[:12])
    content = bytearray(Bucket.objects[key])
    byte = data.draw(st.integers(0, len(content) - 1), label="byte")
    how = data.draw(st.sampled_from(["flip", "truncate", "missing", "longer"]), label="how")
    # Without its manifest a checkpoint never was, unless another builds on it.
    never_was = how == "missing" and key.endswith(".manifest") and number == 6
    if how == "flip":
        content[byte] ^= 1 << data.draw(st.integers(0, 7))
        Bucket.objects[key] = bytes(content)
    elif how == "truncate":
        Bucket.objects[key] = bytes(content[:byte])
    elif how == "longer":
        Bucket.objects[key] = bytes(content) + b"\0"
    else:
        del Bucket.objects[key]
    store = CheckpointStore(place)
    expected = {6: 5, 5: 4}.get(number, 6)
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.number == expected
    trainer.check_equal(loaded)
    assert {entry.number for entry in store.broken} == set(range(expected + 1, 7)) - ({6} if never_was else set())


@pytest.mark.parametrize("saved", [2, 4])  # the next save is an increment; a whole one that also prunes
@pytest.mark.parametrize("puts", range(PUTS))
def test_a_save_that_is_cut_off_at_any_put_leaves_the_newest_intact_and_no_debris_grows(saved: int, puts: int) -> None:
    place = new_place()
    trainer = Trainer(place, keep=2, max_increments=3)
    for _ in range(saved):
        trainer.learn_and_save()
    trainer.learn()
    checkpoint = trainer.checkpoint()
    Bucket.puts_left = puts
    with pytest.raises(CheckpointError, match="the connection is gone"):
        trainer.store.save(checkpoint)
    Bucket.puts_left = None
    store = CheckpointStore(place, CheckpointSettings(keep=2, max_increments=3))
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.sequence == saved
    trainer.check_equal(loaded)

    successor = Trainer(place)
    successor.table, successor.store = Table.restore(SETTINGS, loaded.tables["sparse"]), store
    successor.step = loaded.sequence
    successor.learn_and_save()
    loaded = CheckpointStore(place).load_newest()
    assert loaded is not None
    successor.check_equal(loaded)
    parts = {key.rsplit("/", 2)[1] for key in keys_of(place) if not key.endswith(".manifest")}
    assert sorted(int(folder[:12]) for folder in parts) == store.numbers()


def test_a_reader_sees_what_another_process_has_written_since_it_first_looked() -> None:
    place = new_place()
    trainer, reader = Trainer(place), CheckpointStore(place)
    assert reader.load_newest() is None
    for _ in range(3):
        trainer.learn_and_save()
        loaded = reader.load_newest()
        assert loaded is not None
        trainer.check_equal(loaded)


def test_a_store_that_wants_its_folders_made_gets_them(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "unused", keep=1, max_increments=1)
    place = str(tmp_path / "not" / "there" / "yet")
    trainer.store.storage = ObjectStorage(LocalFileSystem(), place, place)
    for _ in range(4):
        trainer.learn_and_save()
    reader = CheckpointStore(tmp_path / "unused")
    reader.storage = ObjectStorage(LocalFileSystem(), place, place)
    loaded = reader.load_newest()
    assert loaded is not None
    trainer.check_equal(loaded)
    assert len(list(Path(place).glob("*.manifest"))) == len(reader.numbers()) == 3


def test_of_two_writers_the_second_is_refused_and_spoils_nothing() -> None:
    place = new_place()
    older, newer = Trainer(place), Trainer(place)
    older.learn_and_save()
    storage = storage_at(place)
    one, other = storage.draft(2), storage.draft(2)
    assert isinstance(storage, ObjectStorage)
    other.commit(b"{}")
    with pytest.raises(FileExistsError):
        one.commit(b"{}")
    assert newer.store.numbers() == [1, 2]


def test_a_scheme_that_nobody_knows_is_a_clear_error() -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        CheckpointStore("nowhere://bucket/kept")
