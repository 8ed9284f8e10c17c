"""Ending exactly the processes that a stack started, whoever started them and whatever became of their parents."""

import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from infra.local.identity import Identity, alive, session_members
from infra.local.state import Record, State

_SHM = Path("/dev/shm")


def send(identity: Identity, signal_number: int) -> None:
    """Signals the process unless it is gone (or its number is somebody else's by now)."""
    try:
        # The descriptor pins the process: between the check and the signal its number cannot change hands.
        descriptor = os.pidfd_open(identity.pid)
    except OSError:
        return
    try:
        if alive(identity):
            signal.pidfd_send_signal(descriptor, signal_number)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def wait_gone(identities: Iterable[Identity], timeout_s: float) -> list[Identity]:
    """Waits until all are gone; returns those that are not after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    left = [identity for identity in identities if alive(identity)]
    while left and time.monotonic() < deadline_s:
        time.sleep(0.02)
        left = [identity for identity in left if alive(identity)]
    return left


def kill_session(record: Record, state: State) -> int:
    """Kills what is left of a process and of its children at once, and removes what it left in /dev/shm.

    Returns the number of processes killed.
    """
    killed = 0
    # A child may fork while we look: look again until nobody is left.
    while members := session_members(record.identity, state.mark):
        for member in members:
            send(member, signal.SIGKILL)
        killed += len(members)
        wait_gone(members, timeout_s=5.0)
    remove_shared_memory(record.shm_prefix)
    return killed


def remove_shared_memory(prefix: str) -> None:
    """Removes the files and folders under /dev/shm whose names begin with `prefix` (nothing for an empty one)."""
    if not prefix:
        return
    for path in _SHM.glob(f"{prefix}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def end_orphans(state: State, timeout_s: float) -> list[str]:
    """Ends what a killed supervisor left behind: asks all at once, kills after `timeout_s`; returns their names."""
    records = state.records()
    leaders = [record for record in records if alive(record.identity)]
    for record in leaders:
        send(record.identity, signal.SIGTERM)
    wait_gone((record.identity for record in leaders), timeout_s)
    ended = {record.name for record in leaders}
    for record in records:
        if kill_session(record, state):
            ended.add(record.name)
        state.remove_record(record.name)
    return sorted(ended)
