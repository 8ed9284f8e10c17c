"""Which process a number means: a pid is used again, a pid with its start time and boot is not."""

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Identity(msgspec.Struct, frozen=True):
    """A process for good: `started_ticks` is field 22 of /proc/PID/stat (clock ticks after the boot `boot_id`)."""

    pid: int
    started_ticks: int
    boot_id: str


class _Stat(msgspec.Struct, frozen=True):
    state: str
    session: int
    threads: int
    started_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The command may hold blanks and brackets: the fields are counted from its last bracket on.
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], session=int(fields[3]), threads=int(fields[17]), started_ticks=int(fields[19]))


def boot_id() -> str:
    """The id of this boot of the machine."""
    return _BOOT.read_text().strip()


def identify(pid: int) -> Identity | None:
    """The identity of the running process `pid`; None where there is none, or only its zombie.

    One whose first thread has ended before others still runs: it holds its files and ports until the last is gone.
    """
    stat = _stat(pid)
    if stat is None or (stat.state in "ZX" and stat.threads <= 1):
        return None
    return Identity(pid=pid, started_ticks=stat.started_ticks, boot_id=boot_id())


def started_s(pid: int) -> float:
    """When a process began (s since the epoch), to a second. Raises FileNotFoundError where there is none."""
    found = _stat(pid)
    if found is None:
        raise FileNotFoundError(f"there is no process {pid}")
    booted_s = next(int(line.split()[1]) for line in (_PROC / "stat").read_text().splitlines() if line[:6] == "btime ")
    return booted_s + found.started_ticks / os.sysconf("SC_CLK_TCK")


def alive(identity: Identity) -> bool:
    """Whether exactly this process still runs."""
    return identify(identity.pid) == identity


def session_members(leader: Identity, mark: str) -> list[Identity]:
    """The living processes of the session that `leader` founded, itself included.

    A session's number is not given out again while it has members, so members next to a living `leader` are its own.
    After the leader's death they must also carry `mark` (as `NAME=value`) in their environment.
    """
    if leader.boot_id != boot_id():
        return []
    leads = alive(leader)
    if not leads and identify(leader.pid) is not None:
        return []  # the number belongs to somebody else: our session has been empty for long
    members = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        stat = _stat(int(entry.name))
        if stat is None or stat.session != leader.pid or stat.started_ticks < leader.started_ticks:
            continue
        member = identify(int(entry.name))
        if member is not None and (leads or _carries(member.pid, mark)):
            members.append(member)
    return members


def _carries(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
