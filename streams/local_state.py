"""One stage's state of one partition on local disk: what its changelog says, up to a position.

The changelog is what lasts; this copy is there so that the state need not fit in memory, and so that a restart reads
only the changelog's tail. It never holds what is not committed: changes come in after their transaction, together with
the position behind them, in one atomic write. So after a kill it is a true prefix of the changelog, maybe an old one.
"""

import logging
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from rocksdict import BlockBasedOptions, Cache, DBCompactionStyle, Options, Rdict, WriteBatch, WriteOptions

log = logging.getLogger(__name__)

# No key of a stage starts with a zero byte.
_POSITION: Final = b"\x00position"
_END: Final = b"\xff" * 16
# How long (ms) changes may lie in buffers alone: what a restart after a kill reads again of the changelog.
_FLUSH_MS: Final = 10_000
Changes = Mapping[bytes, bytes | None]


class LocalStateError(RuntimeError):
    """The local copy cannot be read or written (corrupt, disk full, held by another process); the changelog can."""


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How much of a changelog is in a copy: at least all of it up to the record at `offset`, which ends a batch.

    `at_ms` is the wall clock of that word.
    """

    offset: int
    at_ms: int


class LocalState:
    """A RocksDB in `folder`. `memory_bytes` bounds its own buffers and block cache; bytes keys and values.

    Raises LocalStateError wherever the disk or the files do not serve.
    """

    def __init__(self, folder: Path, memory_bytes: int) -> None:
        self.folder = folder
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        # Two buffers at most: a third of the memory each, the rest caches blocks of what was spilled.
        options.set_write_buffer_size(max(memory_bytes // 3, 2**20))
        options.set_max_write_buffer_number(2)
        # Keys come in no order: merging runs of one size costs a third of what merging into one level does.
        options.set_compaction_style(DBCompactionStyle.universal())
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        options.set_max_open_files(256)
        # Most look-ups are of what is not there: new requests, new event ids. Buffers and files have filters for that.
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(0.05)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_cache_index_and_filter_blocks(True)
        table.set_block_cache(Cache(max(memory_bytes // 3, 2**20)))
        options.set_block_based_table_factory(table)
        # The changelog is this copy's log: what a kill takes with the buffers is read there again.
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True  # type: ignore[method-assign, assignment]
        self._flushed_ms = 0
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _failures(folder):
            self._db = Rdict(str(folder), options)
        try:
            found = self.get(_POSITION)
            self.position = msgspec.msgpack.decode(found, type=Position) if found is not None else None
        except BaseException:
            self.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:
            raise LocalStateError(f"{self.folder}: {error}") from error
        return value

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The entries of `start` <= key < `stop` in the order of their keys, as they are now."""
        with _failures(self.folder):
            found = self._db.iter()
            try:
                found.seek(start)
                while found.valid():
                    key = found.key()
                    if key >= stop:
                        break
                    yield key, found.value()
                    found.next()
                # An iterator that met a broken block is not valid either, and must not pass for the end.
                found.status()
            finally:
                # It keeps the files open as long as it lives, in the traceback of an error for example.
                del found

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Everything but the position."""
        return self.scan(b"\x01", _END)

    def apply(self, changes: Changes, position: Position | None) -> None:
        """Writes changes (None deletes) and, where one is given, the position behind them; all or nothing.

        A kill may take what was applied in the 10 s before, by the positions' clock.
        """
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        if position is not None:
            put(_POSITION, msgspec.msgpack.encode(position))
        with _failures(self.folder):
            self._db.write(batch, self._unlogged)
            if position is not None:
                self.position = position
                if position.at_ms - self._flushed_ms >= _FLUSH_MS:
                    self._flushed_ms = position.at_ms
                    self._db.flush(wait=False)

    def disk_bytes(self) -> int:
        """Bytes in files, what waits in memory included."""
        with _failures(self.folder):
            names = ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables")
            return sum(int(self._db.property_int_value(name) or 0) for name in names)

    def close(self) -> None:
        """Closes the files; what is broken cannot be written to any more, and is let go of as it is."""
        try:
            self._db.close()
        except Exception as error:
            log.debug("%s: close: %s", self.folder, error)
        # The lock goes with the last reference.
        del self._db


def opened(folder: Path, memory_bytes: int, *, anew: bool = False) -> LocalState:
    """The copy in `folder`; an empty one where there is none, it cannot be read, or `anew` is asked for.

    Raises LocalStateError where even an empty one cannot be made, or another process has it open.
    """
    try:
        state = LocalState(folder, memory_bytes)
        if not anew:
            return state
        state.close()
    except LocalStateError as error:
        # What another process has open is not ours to remove: RocksDB names the file that it could not lock.
        if "/LOCK" in str(error):
            raise
    shutil.rmtree(folder, ignore_errors=True)
    return LocalState(folder, memory_bytes)


def ordered(*numbers: int) -> bytes:
    """Non-negative numbers below 2**64 as bytes that sort as the numbers do."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


class _failures:  # noqa: N801 - reads as a word
    """Maps whatever RocksDB raises to LocalStateError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # rocksdict raises bare Exceptions for everything that RocksDB says.
        if isinstance(error, Exception) and not isinstance(error, LocalStateError):
            raise LocalStateError(f"{self._folder}: {error}") from error
