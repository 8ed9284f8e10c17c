"""Places at which a process can be made to die, or to find the disk full: for `freshet chaos` and the tests.

`hit(name)` stands between two steps that must survive being torn apart. It costs a comparison, unless the process was
started with that place armed (`python -m infra.process NAME --failpoint PLACE:COUNT`): then the COUNT-th hit is its
end, by SIGKILL, without any cleaning up.
"""

import enum
import errno
import os
import signal
import threading
from collections.abc import Callable
from typing import Final

from msgspec import Struct


class Kind(enum.StrEnum):
    """What kind of step a place stands at."""

    BEGIN = "begin"
    WRITE = "write"
    PUBLISH = "publish"
    ACKNOWLEDGE = "acknowledge"
    RENAME = "rename"
    COMMIT = "commit"


class Place(Struct, frozen=True):
    """A place: at which kind of step, and what has just been done (or is about to be) there."""

    kind: Kind
    what: str


# The first word of a name is the process.
CATALOGUE: Final[dict[str, Place]] = {
    "trainer.restored": Place(Kind.BEGIN, "the checkpoint is restored, the log still has its old writer"),
    "trainer.fenced": Place(Kind.BEGIN, "older writers of the log are fenced, nothing of theirs is repaired"),
    "trainer.repair-read": Place(Kind.BEGIN, "the frames behind the checkpoint are read"),
    "trainer.repair-touched": Place(Kind.BEGIN, "their keys wait to be published again"),
    "trainer.epoch-begun": Place(Kind.ACKNOWLEDGE, "the new epoch and the repaired rows are acknowledged"),
    "trainer.learned": Place(Kind.WRITE, "a batch is learned, nothing of it is sent"),
    "trainer.erased": Place(Kind.WRITE, "a user's rows are removed, their tombstones are not sent"),
    "trainer.frames-made": Place(Kind.PUBLISH, "frames have their sequence numbers and are not sent"),
    "trainer.transaction-begun": Place(Kind.PUBLISH, "the transaction of a batch of frames is open and empty"),
    "trainer.frames-sent": Place(Kind.PUBLISH, "frames are acknowledged and not committed"),
    "trainer.frames-committed": Place(Kind.COMMIT, "frames are visible, the publisher has not noted it"),
    "trainer.keys-forgetting": Place(Kind.ACKNOWLEDGE, "the acknowledgement is noted, its keys are still touched"),
    "trainer.keys-forgotten": Place(Kind.ACKNOWLEDGE, "the acknowledged keys are no longer touched"),
    "trainer.dense-sent": Place(Kind.PUBLISH, "a dense bundle is handed to the log's writer"),
    "trainer.checkpoint-snapped": Place(Kind.WRITE, "a snapshot is taken, nothing of it is on disk"),
    "trainer.checkpoint-folder-made": Place(Kind.WRITE, "the hidden folder of a checkpoint is made"),
    "trainer.checkpoint-table-written": Place(Kind.WRITE, "the rows of a checkpoint are on disk"),
    "trainer.checkpoint-dense-written": Place(Kind.WRITE, "the dense arrays of a checkpoint are on disk"),
    "trainer.checkpoint-manifest-written": Place(Kind.WRITE, "the manifest is on disk, its checksum is not"),
    "trainer.checkpoint-checksum-written": Place(Kind.WRITE, "the manifest's checksum is on disk"),
    "trainer.checkpoint-folder-synced": Place(Kind.WRITE, "all of the hidden folder is durable"),
    "trainer.checkpoint-renamed": Place(Kind.RENAME, "the checkpoint has its name, which is not durable"),
    "trainer.checkpoint-saved": Place(Kind.COMMIT, "the checkpoint is durable, older ones are not pruned"),
    "trainer.checkpoint-hidden": Place(Kind.RENAME, "a checkpoint that nobody needs is renamed, not removed"),
    "trainer.checkpoint-pruned": Place(Kind.WRITE, "older checkpoints are pruned"),
    "trainer.cutting": Place(Kind.COMMIT, "the topics are about to be cut behind the oldest checkpoint"),
    "trainer.cut": Place(Kind.COMMIT, "the topics are cut behind the oldest checkpoint"),
    "replica.checkpoint-loaded": Place(Kind.BEGIN, "the checkpoint is in memory, nothing of it in the new table"),
    "replica.table-filled": Place(
        Kind.BEGIN, "the new table holds the checkpoint's rows, the dense bundle is the old one"
    ),
    "replica.lineage-cleared": Place(Kind.BEGIN, "readers are told nothing, the new table has no name"),
    "replica.table-renamed": Place(Kind.RENAME, "the new table has its name, readers use the old one"),
    "replica.table-published": Place(Kind.COMMIT, "readers use the new table, they are told nothing of what it holds"),
    "replica.lineage-published": Place(Kind.COMMIT, "readers are told what the new table holds"),
    "replica.rows-removed": Place(Kind.WRITE, "a frame's tombstones are applied, its rows are not"),
    "replica.row-odd": Place(Kind.WRITE, "one row of a frame is half written, its sequence is odd"),
    "replica.rows-applied": Place(Kind.WRITE, "a frame's rows are applied, readers are not told"),
    "replica.lineage-odd": Place(Kind.COMMIT, "the lineage is half written, its sequence is odd"),
    "replica.frame-told": Place(Kind.COMMIT, "readers are told of a frame"),
    "replica.table-grown": Place(Kind.WRITE, "the larger table holds all rows, readers use the smaller"),
    "replica.file-written": Place(Kind.WRITE, "a small file is written under its temporary name"),
    "replica.file-renamed": Place(Kind.RENAME, "a small file has its name, the head names the one before"),
    "replica.head-advanced": Place(Kind.COMMIT, "the head names a new file, the old one is not removed"),
    "worker.fenced": Place(Kind.BEGIN, "a task has fenced the owner before, its state is not restored"),
    "worker.copy-opened": Place(Kind.BEGIN, "a task has its local copy open, the changelog's tail is not read"),
    "worker.copy-read": Place(Kind.BEGIN, "the changelog's tail is read, the last of it is not in the copy"),
    "worker.copy-caught-up": Place(Kind.BEGIN, "the local copy is what the changelog says"),
    "worker.restored": Place(Kind.BEGIN, "a task has its state, it does not read yet"),
    "worker.processed": Place(Kind.WRITE, "a batch is processed in memory, nothing of it is sent"),
    "worker.transaction-begun": Place(Kind.PUBLISH, "the transaction of a batch is open and empty"),
    "worker.topic-sent": Place(Kind.PUBLISH, "one of the topics of a batch is handed to the producer"),
    "worker.batch-sent": Place(Kind.PUBLISH, "outputs, changelog and positions are acknowledged and not committed"),
    "worker.batch-committed": Place(Kind.COMMIT, "a batch is visible, its offsets are not noted"),
    "worker.copy-written": Place(Kind.WRITE, "a committed batch is in the local copy"),
    "worker.settled": Place(Kind.WRITE, "a committed batch is out of memory as far as it is to be"),
    "worker.offsets-noted": Place(Kind.ACKNOWLEDGE, "the offsets of a batch are noted, others do not see them"),
    "worker.offsets-committing": Place(Kind.COMMIT, "the group's offsets are about to be committed"),
    "worker.offsets-committed": Place(Kind.COMMIT, "the group's offsets are committed"),
    "features.resumed": Place(Kind.BEGIN, "parts of the history beyond the position are removed, nothing is read"),
    "features.pushing": Place(Kind.WRITE, "rows are read, the online store has none of them"),
    "features.pushed": Place(Kind.PUBLISH, "the online store has the rows, the position is before them"),
    "features.position-written": Place(Kind.WRITE, "the new position lies under its temporary name"),
    "features.online-saved": Place(Kind.COMMIT, "the position says what the online store has"),
    "features.erased": Place(Kind.WRITE, "erased keys are out of the history, nothing new is in it"),
    "features.part-written": Place(Kind.WRITE, "a part of the history lies under its temporary name"),
    "features.part-renamed": Place(Kind.RENAME, "a part of the history has its name, the position is before it"),
    "features.history-saved": Place(Kind.COMMIT, "the position says what the history has"),
    "sink.resumed": Place(Kind.BEGIN, "it is known from ClickHouse what is stored, nothing is read"),
    "sink.intent-committing": Place(Kind.COMMIT, "batches are cut, nobody else knows their bounds"),
    "sink.intent-committed": Place(Kind.COMMIT, "the bounds of the batches are committed, nothing is inserted"),
    "sink.inserting": Place(Kind.WRITE, "the rows of one table of a batch are about to be inserted"),
    "sink.inserted": Place(Kind.WRITE, "the rows of one table are acknowledged, another's may be missing"),
    "sink.letters-sent": Place(Kind.PUBLISH, "all rows are stored, the dead letters are handed to the producer"),
    "sink.letters-acknowledged": Place(Kind.ACKNOWLEDGE, "the dead letters are acknowledged, the batch is not done"),
    "sink.end-committing": Place(Kind.COMMIT, "all of the batches is stored, the intent still names them"),
    "sink.end-committed": Place(Kind.COMMIT, "the batches are done, the progress does not know it"),
    "sink.progress-noting": Place(Kind.WRITE, "the progress is about to be noted"),
    "sink.progress-noted": Place(Kind.WRITE, "the progress is noted"),
}


class Action(enum.StrEnum):
    """What an armed place does: the process dies by SIGKILL, or the place raises ENOSPC and the process goes on."""

    KILL = "kill"
    NO_SPACE = "no-space"


class Arm(Struct, frozen=True):
    """A place, armed: `action` happens at its `count`-th hit."""

    name: str
    count: int = 1
    action: Action = Action.KILL

    def __post_init__(self) -> None:
        if self.name not in CATALOGUE:
            raise ValueError(f"there is no failpoint {self.name!r}: see `freshet chaos --list`")
        if self.count < 1:
            raise ValueError(f"`count` == {self.count}, must be >= 1")

    def __str__(self) -> str:
        return f"{self.name}:{self.count}:{self.action.value}"


def parse(text: str) -> Arm:
    """NAME, NAME:COUNT or NAME:COUNT:ACTION. Raises ValueError."""
    name, _, rest = text.partition(":")
    count, _, action = rest.partition(":")
    return Arm(name, int(count or 1), Action(action or Action.KILL))


class _Armed:
    def __init__(self, arm: Arm, at_death: Callable[[], None]) -> None:
        self._arm, self._at_death, self._hits = arm, at_death, 0
        self._lock = threading.Lock()

    def hit(self, name: str, tear: Callable[[], object] | None) -> None:
        if name != self._arm.name:
            return
        # Several threads pass here; the others wait for the end where one of them has met it.
        with self._lock:
            self._hits += 1
            if self._hits != self._arm.count:
                return
            self._at_death()
            if self._arm.action is Action.NO_SPACE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
            if tear is not None:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # the signal ends this thread too, a moment later


# The process's own: set once, before anything runs that could hit.
_armed: _Armed | None = None


def hit(name: str, tear: Callable[[], object] | None = None) -> None:
    """Passes the place `name` of the catalogue; where it is armed and due, does not return (or raises ENOSPC).

    `tear` is called just before the death: it leaves half-done what cannot be interrupted from here.
    """
    if _armed is not None:
        _armed.hit(name, tear)


def arm(armed: Arm | None, at_death: Callable[[], None] = lambda: None) -> None:
    """Arms one place of this process (None: none any more); `at_death` is called when it is due, before anything."""
    global _armed
    _armed = None if armed is None else _Armed(armed, at_death)
