"""Bounded memory over the disk copy says what a dict would say, and the copy survives what happens to files."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.kept import Kept, Written
from streams.local_state import LocalState, LocalStateError, Position, opened, ordered
from streams.time_index import BUCKET_MS, TimeIndex, bucket_of
from tests.stacks import wait_until

MEMORY_BYTES = 2**20
steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "delete", "commit", "reopen"]), st.integers(0, 6), st.integers(0, 9)),
    max_size=60,
)


class Table:
    """Kept integers over a copy on disk in `folder`."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.open()

    def open(self) -> None:
        self.disk = opened(self.folder, MEMORY_BYTES)
        self.kept: Kept[int] = Kept(self.limit_bytes, self._load, self._dump, lambda _: 8)

    def commit(self) -> None:
        changes: Written = {}
        self.kept.drain(changes)
        self.disk.apply(changes, None)
        self.kept.settle()

    def _load(self, key: int) -> int | None:
        found = self.disk.get(b"k" + ordered(key))
        return int(found) if found is not None else None

    @staticmethod
    def _dump(key: int, value: int | None, changes: Written) -> None:
        changes[b"k" + ordered(key)] = None if value is None else b"%d" % value


@given(steps, st.sampled_from([0, 600, 2**20]))
@settings(max_examples=60)
def test_kept_values_are_those_of_a_dict_however_little_memory_there_is(
    todo: list[tuple[str, int, int]], limit_bytes: int
) -> None:
    known: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as name:
        table = Table(Path(name) / "state", limit_bytes)
        for what, key, value in todo:
            if what == "put":
                table.kept.put(key, value)
                known[key] = value
            elif what == "delete":
                table.kept.delete(key)
                known.pop(key, None)
            elif what == "get":
                assert table.kept.get(key) == known.get(key)
            else:
                table.commit()
                if what == "reopen":
                    table.disk.close()
                    table.open()
        assert {key: table.kept.get(key) for key in range(7)} == {key: known.get(key) for key in range(7)}
        table.commit()
        assert {int.from_bytes(key[1:], "big"): int(value) for key, value in table.disk.entries()} == known
        table.disk.close()


def test_memory_stays_within_its_bound_and_a_batch(tmp_path: Path) -> None:
    table = Table(tmp_path / "state", 100_000)
    most = 0
    for batch in range(100):
        for k in range(100):
            table.kept.put(100 * batch + k, k)
        table.commit()
        most = max(most, table.kept.memory_bytes)
    assert 50_000 < most <= 100_000
    assert table.kept.spilled > 8_000
    assert [table.kept.get(key) for key in (0, 5_050, 9_999)] == [0, 50, 99]
    table.disk.close()


@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=40), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=30)
def test_an_index_gives_every_key_once_in_the_order_of_time(
    added: list[tuple[int, bool]], first: int, second: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        disk = opened(Path(name) / "state", MEMORY_BYTES)
        index = TimeIndex(disk, b"t")
        for number, (bucket, commit) in enumerate(added):
            index.add(bucket, ordered(bucket, number))
            if commit:
                changes: Written = {}
                index.drain(changes, number)
                disk.apply(changes, None)
        low, high = min(first, second), max(first, second)
        wanted = sorted(ordered(bucket, number) for number, (bucket, _) in enumerate(added))
        between = [key for key in wanted if low <= int.from_bytes(key[:8], "big") < high]
        assert index.oldest(0) == min((bucket for bucket, _ in added), default=None)
        assert sorted(index.keys(low, high)) == between
        assert sorted(index.pop(low, high)) == between
        assert index.pop(low, high) == []
        changes = {}
        index.drain(changes, len(added))
        disk.apply(changes, None)
        assert sorted(index.pop(0, 21)) == [key for key in wanted if key not in between]
        disk.close()


def test_times_fall_into_buckets_and_none_before_the_epoch() -> None:
    assert (bucket_of(0), bucket_of(BUCKET_MS - 1), bucket_of(BUCKET_MS), bucket_of(-(2**62))) == (0, 0, 1, 0)


def test_a_copy_keeps_its_position_with_its_content(tmp_path: Path) -> None:
    with_position = opened(tmp_path / "state", MEMORY_BYTES)
    with_position.apply({b"a": b"1", b"b": b"2"}, Position(7, 1_000))
    with_position.apply({b"a": None}, None)
    with_position.close()
    again = opened(tmp_path / "state", MEMORY_BYTES)
    assert (dict(again.entries()), again.position) == ({b"b": b"2"}, Position(7, 1_000))
    again.close()
    fresh = opened(tmp_path / "state", MEMORY_BYTES, anew=True)
    assert (dict(fresh.entries()), fresh.position) == ({}, None)
    fresh.close()


def test_what_a_kill_leaves_is_a_prefix_and_at_most_ten_seconds_old(tmp_path: Path) -> None:
    copy = opened(tmp_path / "state", MEMORY_BYTES)

    def left(name: str) -> tuple[dict[bytes, bytes], Position | None]:
        shutil.copytree(tmp_path / "state", tmp_path / name)
        found = opened(tmp_path / name, MEMORY_BYTES)
        try:
            return dict(found.entries()), found.position
        finally:
            found.close()

    def reaches(offset: int) -> bool:
        shutil.rmtree(tmp_path / "image", ignore_errors=True)
        try:
            position = left("image")[1]
        except shutil.Error:
            # A file went away while it was copied.
            return False
        return position is not None and position.offset == offset

    copy.apply({b"a": b"1"}, Position(1, 100_000))
    wait_until(lambda: reaches(1), 20, "the first changes are on disk")
    copy.apply({b"a": b"2", b"b": b"2"}, Position(2, 109_999))
    assert left("young") in [({b"a": b"1"}, Position(1, 100_000)), ({b"a": b"2", b"b": b"2"}, Position(2, 109_999))]
    copy.apply({b"c": b"3"}, Position(3, 110_000))
    wait_until(lambda: reaches(3), 20, "what is ten seconds old is on disk")
    assert left("old") == ({b"a": b"2", b"b": b"2", b"c": b"3"}, Position(3, 110_000))
    copy.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "removed"])
def test_a_damaged_copy_is_noticed_or_begun_anew(tmp_path: Path, damage: str) -> None:
    copy = opened(tmp_path / "state", MEMORY_BYTES)
    for k in range(40):
        copy.apply({b"k" + ordered(k, n): bytes(1_000) for n in range(100)}, Position(k, 1))
    copy.close()
    files = sorted(path for path in (tmp_path / "state").iterdir() if path.suffix == ".sst")
    assert files
    for path in [*files, tmp_path / "state" / "CURRENT"]:
        if damage == "garbage":
            path.write_bytes(b"\x01" * path.stat().st_size)
        elif damage == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            path.unlink()
    anew = opened(tmp_path / "state", MEMORY_BYTES)
    assert (dict(anew.entries()), anew.position) == ({}, None)
    anew.close()


def test_a_broken_block_raises_and_does_not_pass_for_the_end(tmp_path: Path) -> None:
    copy = opened(tmp_path / "state", MEMORY_BYTES)
    for k in range(40):
        copy.apply({b"k" + ordered(k, n): k.to_bytes(2, "big") * 500 for n in range(100)}, Position(k, 1))
    copy.close()
    for path in (tmp_path / "state").glob("*.sst"):
        data = bytearray(path.read_bytes())
        for at in range(0, len(data) - 20_000, 1_000):
            data[at] ^= 0xFF
        path.write_bytes(bytes(data))
    with pytest.raises(LocalStateError, match="Corruption"):
        broken = LocalState(tmp_path / "state", MEMORY_BYTES)
        try:
            list(broken.entries())
        finally:
            broken.close()
    anew = opened(tmp_path / "state", MEMORY_BYTES, anew=True)
    assert list(anew.entries()) == []
    anew.close()


def test_a_copy_that_another_has_open_is_left_alone(tmp_path: Path) -> None:
    mine = opened(tmp_path / "state", MEMORY_BYTES)
    mine.apply({b"a": b"1"}, Position(1, 1))
    with pytest.raises(LocalStateError, match="/LOCK"):
        opened(tmp_path / "state", MEMORY_BYTES, anew=True)
    assert dict(mine.entries()) == {b"a": b"1"}
    mine.close()
    shutil.rmtree(tmp_path / "state")
