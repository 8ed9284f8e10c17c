"""Fetching servers once into the cache folder: verified, atomic, and safe when several processes do it at once."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKS = Path(__file__).parent / "locks"


class InstallError(Exception):
    """A server could not be fetched, or is not what the committed hashes say."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file at `path`; the kernel drops it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once(cache: Path, name: str, lock: Path, build: Callable[[Path], None]) -> Path:
    """The folder `cache/name-HASH` that `build(folder)` fills, where HASH is that of the lock file.

    It is built beside and renamed when complete, so a folder that exists is whole; another lock makes another folder.
    """
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    final = cache / f"{name}-{digest}"
    if final.is_dir():
        return final
    with locked(cache / f"{name}.lock"):
        if final.is_dir():
            return final
        building = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        try:
            build(building)
            building.rename(final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return final


def verify(file: Path, sha256: str) -> None:
    """Raises InstallError where the file's SHA-256 is not the given one (hexadecimal)."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise InstallError(f"{file.name} has SHA-256 {found}, but the lock says {sha256}")


def install_wheels(lock: Path, target: Path) -> None:
    """Installs exactly the wheels of a hashed requirements file into `target`, without their dependencies.

    uv is used where it stands beside this interpreter or on the path, else pip. Raises InstallError with their words.
    """
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    installer = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    options = ["--target", str(target), "--no-deps", "--require-hashes", "--quiet", "-r", str(lock)]
    done = subprocess.run([*installer, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InstallError(f"installing {lock.name} failed: {done.stderr.strip()[-2000:]}")
