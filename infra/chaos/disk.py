"""A disk that is full and a checkpoint that was cut short: said clearly, and the older state is intact.

Where this process may mount one (root), checkpoints lie on a small disk in memory that is really filled. Else the
trainer's own limit on the size of its files does it (RLIMIT_FSIZE: a write beyond it fails, as on a full disk).
"""

import ctypes
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.chaos.arena import Arena
from infra.chaos.broker import ExampleEnds
from infra.chaos.compare import Check
from infra.chaos.kills import strike
from infra.chaos.recovery import Watch
from online_learning.checkpoint.store import CheckpointStore

_SIZE_MB: Final = 256
_WAIT_S: Final = 120.0
# Smaller than the arrays of any checkpoint, larger than a health report.
_FILE_BYTES: Final = 16_384
# Of <linux/sched.h>; Python has `os.unshare` from 3.12 on only.
_CLONE_NEWNS: Final = 0x0002_0000


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A disk of 256 MB at `folder` while the block runs, where that is allowed; whether it is.

    Only this thread, and the threads and processes that it starts from then on, see the disk. When the last of them has
    ended, however it did, the kernel takes the disk away.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ("-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "freshet-chaos")
    mounted = _own_mounts() and _succeeds("mount", "--make-rprivate", "/") and _succeeds("mount", *options, str(folder))
    try:
        yield mounted
    finally:
        if mounted:
            _succeeds("umount", "--lazy", str(folder))


def _own_mounts() -> bool:
    """Gives this thread a mount namespace of its own, a copy of the one it has; whether that is allowed."""
    return bool(ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0)


def _succeeds(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def fill(folder: Path) -> Path:
    """Writes until nothing more fits; returns the file that does it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            block = bytes(size)
            try:
                while file.write(block) == size:
                    pass
            except OSError:
                pass
    return ballast


def full(arena: Arena, watch: Watch, ends: ExampleEnds, mounted: bool, tell: Callable[[str], None]) -> list[Check]:
    """The disk of the checkpoints fills up under load, the trainer is killed meanwhile, and space comes back."""
    folder = Path(arena.settings.learning.trainer.checkpoint_dir)
    before, begun = arena.process("trainer"), arena.log_size("trainer")
    how = "a full disk of 256 MB" if mounted else f"RLIMIT_FSIZE of {_FILE_BYTES} bytes"
    words = "No space left on device" if mounted else "File too large"
    ballast = None
    if mounted:
        ballast = fill(folder)
    else:
        _limit(arena, _FILE_BYTES)
    wrong = []
    try:
        said = f"checkpoint failed: no checkpoint was saved to {folder}"
        arena.wait(
            lambda: said in (log := arena.said_since("trainer", begun)) and words in log,
            _WAIT_S,
            f"the trainer says {said!r} and {words!r}",
            "trainer",
        )
        learned = int(arena.value("trainer", "learned"))
        arena.wait(lambda: int(arena.value("trainer", "learned")) > learned, _WAIT_S, "it goes on learning", "trainer")
        after = arena.process("trainer")
        if (after.pid, after.restarts) != (before.pid, before.restarts):
            wrong.append("the trainer was started again")
        kept = CheckpointStore(folder)
        loaded = kept.load_newest()
        if loaded is None or kept.broken:
            wrong.append(f"the older checkpoints are broken: {kept.broken}")
        if mounted:
            # It comes back from what it had, while there is still no room.
            outage = strike(arena, watch, ends, ("trainer",))
            arena.wait(lambda: outage.everywhere_s is not None, _WAIT_S, "frames flow with a full disk", "trainer")
    finally:
        if ballast is not None:
            ballast.unlink()
        elif arena.process("trainer").pid is not None:
            _limit(arena, resource.RLIM_INFINITY)
    number = loaded.number if loaded is not None else 0
    arena.wait(lambda: int(arena.value("trainer", "checkpoint")) > number, _WAIT_S, "it saves again", "trainer")
    tell(f"{how}: said so, went on, saved again when there was room")
    return [Check("disk full: said, older state intact, saved again", how, "; ".join(wrong))]


def _limit(arena: Arena, size_bytes: int) -> None:
    pid = arena.process("trainer").pid
    assert pid is not None
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


def truncated(arena: Arena, watch: Watch, ends: ExampleEnds, tell: Callable[[str], None]) -> list[Check]:
    """The newest checkpoint is cut short and the trainer killed: it goes on from the newest that is intact."""
    folder = Path(arena.settings.learning.trainer.checkpoint_dir)
    begun = arena.log_size("trainer")
    victim = max(CheckpointStore(folder).numbers())
    part = max((folder / f"{victim:012d}").glob("*.arrays"), key=lambda path: path.stat().st_size)
    with part.open("r+b") as file:
        file.truncate(part.stat().st_size // 2)
    outage = strike(arena, watch, ends, ("trainer",))
    arena.wait(lambda: outage.everywhere_s is not None, _WAIT_S, "frames flow again", "trainer")
    said = arena.said_since("trainer", begun)
    wrong = []
    passed_over = f"checkpoint {victim} in {folder} passed over: {part.name} has"
    if passed_over not in said:
        wrong.append(f"the trainer did not say {passed_over!r}")
    restored = [
        int(line.split("restored checkpoint ")[1].split()[0]) for line in said.splitlines() if "restored ch" in line
    ]
    if not restored or not 0 < restored[-1] < victim:
        wrong.append(f"it restored {restored}")
    tell(f"checkpoint {victim} cut short: restored {restored[-1] if restored else 'none'}")
    return [Check("truncated checkpoint: said, passed over", f"checkpoint {victim}, {part.name}", "; ".join(wrong))]
