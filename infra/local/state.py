"""The state folder of a local stack: which file in it means what."""

import fcntl
import os
import shutil
from pathlib import Path
from typing import TextIO, TypeVar

import msgspec

from infra.local.identity import Identity

T = TypeVar("T")

# Every process of a stack carries this in its environment, so that a child of a dead process is known for ours.
MARK = "FRESHET_STATE"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A process that was started: who it is, and what it leaves behind when it is killed."""

    name: str
    identity: Identity
    shm_prefix: str = ""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the supervisor sees one process.

    `state`: waiting (for `reason`), starting, up, restarting (after `reason`), fenced (by whom says `reason`; it stays
    so until somebody runs `freshet up`), stopping or down. `outside`: nothing is started for it. `since_ms` is when
    this state began; `restarts` counts since `up`. `hopeless`: only other settings can help.
    """

    name: str
    state: str
    since_ms: int
    outside: bool = False
    pid: int | None = None
    addresses: dict[str, str] = {}
    version: str = ""
    restarts: int = 0
    reason: str = ""
    hopeless: bool = False


class StackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the supervisor wrote last; it holds only while `supervisor` lives."""

    supervisor: Identity
    started_ms: int
    at_ms: int
    phase: str
    processes: tuple[ProcessStatus, ...] = ()


class State:
    """Paths, records and the lock of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.resolved = self.folder / "resolved.json"
        self.status = self.folder / "status.json"
        self.logs = self.folder / "logs"
        self._records = self.folder / "processes"
        self._ports = self.folder / "ports.json"
        self._scratch = self.folder / "tmp"
        self._lock: TextIO | None = None

    @property
    def mark(self) -> str:
        """The environment entry (`NAME=value`) that every process of this stack carries."""
        return f"{MARK}={self.folder}"

    def create(self) -> None:
        """Makes the folder and those in it."""
        for folder in (self.folder, self.logs, self._records, self.folder / "health"):
            folder.mkdir(parents=True, exist_ok=True)

    def lock(self) -> bool:
        """Takes the folder for this process until it dies; False where another supervisor has it."""
        self.create()
        file = (self.folder / "lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._lock = file
        return True

    def unlock(self) -> None:
        """Gives the folder back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self.logs / f"{name}.log"

    def health(self, name: str) -> Path:
        """The health file of one of our own processes."""
        return self.folder / "health" / f"{name}.json"

    def fresh_scratch(self, name: str) -> Path:
        """An empty folder for the temporary files of a process that is about to begin: a killed one leaves some."""
        folder = self._scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def remove_scratch(self) -> None:
        """Removes the temporary files of all processes."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def arm(self, name: str, failpoint: str) -> None:
        """Has the next life of one of our own processes, and no later one, run with this failpoint armed."""
        self._armed(name).parent.mkdir(exist_ok=True)
        self._armed(name).write_text(failpoint)

    def armed(self, name: str) -> bool:
        """Whether a failpoint waits for the next life of the process."""
        return self._armed(name).exists()

    def take_armed(self, name: str) -> str | None:
        """The failpoint for the life that begins now, once."""
        try:
            failpoint = self._armed(name).read_text()
            self._armed(name).unlink()
        except FileNotFoundError:
            return None
        return failpoint

    def write_struck(self, name: str, failpoint: str) -> None:
        """Notes that an armed failpoint strikes, in the process that it strikes."""
        write_json(self._struck(name), (os.getpid(), failpoint))

    def struck(self, name: str) -> tuple[int, str] | None:
        """The process id and the failpoint that struck a process of that name last."""
        return read_json(self._struck(name), tuple[int, str])

    def _armed(self, name: str) -> Path:
        return self.folder / "failpoints" / f"{name}.armed"

    def _struck(self, name: str) -> Path:
        return self.folder / "failpoints" / f"{name}.struck"

    def write_record(self, record: Record) -> None:
        """Keeps the record until `remove_record`; two processes of one name need not coexist."""
        write_json(self._records / f"{record.name}.json", record)

    def remove_record(self, name: str) -> None:
        """Forgets the process of that name."""
        (self._records / f"{name}.json").unlink(missing_ok=True)

    def records(self) -> list[Record]:
        """All records of processes that were started and not yet seen to end."""
        found = (read_json(path, Record) for path in sorted(self._records.glob("*.json")))
        return [record for record in found if record is not None]

    def read_ports(self) -> dict[str, int]:
        """The ports that the stack had last, by name."""
        return read_json(self._ports, dict[str, int]) or {}

    def write_ports(self, ports: dict[str, int]) -> None:
        """Keeps the ports for the next start."""
        write_json(self._ports, ports)

    def read_status(self) -> StackStatus | None:
        """What the supervisor wrote last."""
        return read_json(self.status, StackStatus)

    def is_ours(self) -> bool:
        """Whether `create` made the folder, or there is nothing in it."""
        return self._records.is_dir() or not self.folder.exists() or not any(self.folder.iterdir())

    def erase(self) -> None:
        """Deletes everything in the folder, and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Replaces the file in one step, so that a reader sees the old or the new, never a part."""
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(value))
    new.replace(path)


def read_json(path: Path, as_type: type[T]) -> T | None:
    """The file's value; None where there is none or it cannot be read (after a power cut)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=as_type)
    except (OSError, msgspec.DecodeError):
        return None
