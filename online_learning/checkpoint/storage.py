"""Where checkpoints lie: a folder of a local disk, or any store that fsspec reaches (S3, GCS, Azure, HDFS, memory).

Both promise the same: a checkpoint is there as a whole or not at all, and parts never change once they are written. On
a local disk its folder gets its number by one rename, when everything in it is durable. Object stores have no rename:
there the parts go to a prefix that nobody else uses, and the manifest, one object that is written last, names them.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import fsspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import CheckpointError, FileEntry
from online_learning.checkpoint.files import PIECE_BYTES, fsync_folder, local_sink, write_arrays, write_durably
from streams.failpoints import hit

MANIFEST: Final = "manifest.json"
MANIFEST_CHECKSUM: Final = "manifest.xxh3"
HIDDEN: Final = ".writing-"
_NUMBER: Final = re.compile(r"\d{12}")
_MANIFEST_OBJECT: Final = re.compile(r"(\d{12})\.manifest")
_PARTS: Final = re.compile(r"(\d{12})-[0-9a-f]{16}")


class Draft(Protocol):
    """A checkpoint that is being written: it counts once `commit` has returned, and leaves nothing behind otherwise.

    `folder`: the parts' place, for the manifest. All methods raise OSError.
    """

    folder: str

    def write(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> FileEntry:
        """Write a part for good."""

    def commit(self, manifest: bytes) -> None:
        """Write the manifest for good."""

    def discard(self) -> None:
        """Remove what was written."""


class Storage(Protocol):
    """One place of checkpoints, by number. Methods raise OSError, whatever the store's own errors are."""

    location: str

    def exists(self) -> bool:
        """Whether the place is there (a store without folders: always)."""

    def create(self) -> None:
        """Make the place."""

    def numbers(self) -> list[int]:
        """All checkpoints there, ascending, broken ones too."""

    def draft(self, number: int) -> Draft:
        """Begin a checkpoint, and remove what saves that died have left: there is one writer."""

    def manifest(self, number: int) -> bytes:
        """A checkpoint's manifest. Raises CheckpointError where it does not match its checksum."""

    def read(self, number: int, folder: str, name: str) -> NDArray[np.uint8]:
        """The bytes of a part; `folder` as the manifest has it."""

    def remove(self, number: int) -> None:
        """Remove a checkpoint, in an order in which it is never half there."""


def storage_at(location: str | Path) -> Storage:
    """The storage of a path or URL. `file://` is the local disk; a scheme's own package (s3fs, gcsfs, …) must be there.

    Raises CheckpointError where the URL's scheme is unknown or its package is missing.
    """
    text = str(location)
    if not is_url(text):
        return LocalStorage(Path(text))
    if text.startswith("file://"):
        return LocalStorage(Path(urlsplit(text).path))
    try:
        # A cached listing would not show what another process has written.
        store, root = fsspec.core.url_to_fs(text, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise CheckpointError(f"{text}: {error}") from error
    return ObjectStorage(store, root, text)


def is_url(text: str) -> bool:
    """Whether a place is a URL and not a path."""
    return "://" in text


class LocalStorage:
    """A folder per checkpoint, named by its number; what is being written has a hidden name."""

    def __init__(self, path: Path) -> None:
        self.path, self.location = path, str(path)

    def exists(self) -> bool:
        return self.path.is_dir()

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def numbers(self) -> list[int]:
        return sorted(int(entry.name) for entry in self.path.iterdir() if _NUMBER.fullmatch(entry.name))

    def draft(self, number: int) -> Draft:
        for entry in self.path.glob(f"{HIDDEN}*"):
            shutil.rmtree(entry, ignore_errors=True)
        return _LocalDraft(self.path, number)

    def manifest(self, number: int) -> bytes:
        folder = self.path / f"{number:012d}"
        content = (folder / MANIFEST).read_bytes()
        if xxhash.xxh3_128_hexdigest(content).encode() != (folder / MANIFEST_CHECKSUM).read_bytes():
            raise CheckpointError(f"{MANIFEST} does not match its checksum")
        return content

    def read(self, number: int, folder: str, name: str) -> NDArray[np.uint8]:
        return np.fromfile(self.path / f"{number:012d}" / name, np.uint8)

    def remove(self, number: int) -> None:
        # Renamed first, so that a half-removed folder is never taken for a checkpoint.
        doomed = self.path / f"{HIDDEN}removed-{number}"
        with contextlib.suppress(OSError):
            (self.path / f"{number:012d}").rename(doomed)
            hit("trainer.checkpoint-hidden")
            shutil.rmtree(doomed, ignore_errors=True)


class _LocalDraft:
    folder = ""

    def __init__(self, path: Path, number: int) -> None:
        self._path, self._number = path, number
        self._hidden = path / f"{HIDDEN}{number}-{os.getpid()}"
        self._hidden.mkdir()

    def write(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> FileEntry:
        with local_sink(self._hidden / name) as put:
            return write_arrays(name, arrays, put)

    def commit(self, manifest: bytes) -> None:
        write_durably(self._hidden / MANIFEST, manifest)
        hit("trainer.checkpoint-manifest-written")
        write_durably(self._hidden / MANIFEST_CHECKSUM, xxhash.xxh3_128_hexdigest(manifest).encode())
        hit("trainer.checkpoint-checksum-written")
        fsync_folder(self._hidden)
        hit("trainer.checkpoint-folder-synced")
        self._hidden.rename(self._path / f"{self._number:012d}")
        hit("trainer.checkpoint-renamed")
        fsync_folder(self._path)

    def discard(self) -> None:
        shutil.rmtree(self._hidden, ignore_errors=True)


class ObjectStorage:
    """Objects under `root` of an fsspec file system: `NUMBER.manifest` (its checksum in the first line) counts, the
    parts lie under `NUMBER-RANDOM/`.

    Nothing is renamed, appended to or written twice, and nothing rests on folders. Two writers at once spoil nothing of
    each other's: their parts lie apart, and the second manifest of a number is refused.
    """

    def __init__(self, store: Any, root: str, location: str) -> None:
        self._store, self._root, self.location = store, root.rstrip("/"), location

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: a store without folders has none to make, the others make them with the first part."""

    def numbers(self) -> list[int]:
        found = (_MANIFEST_OBJECT.fullmatch(name) for name in self._names())
        return sorted(int(match[1]) for match in found if match)

    def draft(self, number: int) -> Draft:
        self._remove_debris()
        folder = f"{number:012d}-{secrets.token_hex(8)}"
        return _ObjectDraft(self._store, self._root, number, folder)

    def manifest(self, number: int) -> bytes:
        with _as_oserror(self.location):
            content: bytes = self._store.cat_file(self._path(f"{number:012d}.manifest"))
        checksum, _, manifest = content.partition(b"\n")
        if xxhash.xxh3_128_hexdigest(manifest).encode() != checksum:
            raise CheckpointError(f"{number:012d}.manifest does not match its checksum")
        return manifest

    def read(self, number: int, folder: str, name: str) -> NDArray[np.uint8]:
        with _as_oserror(self.location), self._store.open(self._path(f"{folder}/{name}"), "rb") as file:
            pieces = []
            while piece := file.read(PIECE_BYTES):
                pieces.append(np.frombuffer(piece, np.uint8))
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)

    def remove(self, number: int) -> None:
        # The manifest first: without it the parts are debris, which the next save removes where this one dies.
        with contextlib.suppress(OSError), _as_oserror(self.location):
            self._store.rm_file(self._path(f"{number:012d}.manifest"))
        with contextlib.suppress(OSError):
            self._remove_debris()

    def _remove_debris(self) -> None:
        names = self._names()
        kept = {match[1] for match in map(_MANIFEST_OBJECT.fullmatch, names) if match}
        for name in names:
            match = _PARTS.fullmatch(name)
            if match and match[1] not in kept:
                with contextlib.suppress(OSError), _as_oserror(self.location):
                    self._store.rm(self._path(name), recursive=True)

    def _names(self) -> list[str]:
        with _as_oserror(self.location):
            self._store.invalidate_cache()
            try:
                paths = self._store.ls(self._root, detail=False)
            except FileNotFoundError:
                # Where there are no objects yet, a store without folders has no such prefix.
                return []
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class _ObjectDraft:
    def __init__(self, store: Any, root: str, number: int, folder: str) -> None:
        self._store, self._root, self._number, self.folder = store, root, number, folder

    def write(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> FileEntry:
        path = f"{self._root}/{self.folder}/{name}"
        with _as_oserror(path), self._open(path) as file:

            def put(piece: memoryview) -> int:
                file.write(piece)
                return len(piece)

            return write_arrays(name, arrays, put)

    def _open(self, path: str) -> Any:
        try:
            return self._store.open(path, "wb")
        except FileNotFoundError:
            # A store with folders wants them made. The others are not asked: some would look through the whole bucket.
            self._store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            return self._store.open(path, "wb")

    def commit(self, manifest: bytes) -> None:
        path = f"{self._root}/{self._number:012d}.manifest"
        content = xxhash.xxh3_128_hexdigest(manifest).encode() + b"\n" + manifest
        with _as_oserror(path):
            self._store.pipe_file(path, content, mode="create")

    def discard(self) -> None:
        with contextlib.suppress(OSError), _as_oserror(self.folder):
            self._store.rm(f"{self._root}/{self.folder}", recursive=True)


@contextlib.contextmanager
def _as_oserror(what: str) -> Iterator[None]:
    """Every store has errors of its own; here all of them are OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{what}: {type(error).__name__}: {error}") from error
