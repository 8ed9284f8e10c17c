"""A process is known by its number, start time and boot; ending one never touches another."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from msgspec.structs import replace

from infra.local.ending import end_orphans, kill_session, send, wait_gone
from infra.local.identity import Identity, alive, identify, session_members
from infra.local.state import MARK, Record, State
from tests.stacks import wait_until

# Founds a session, has a child that ignores SIGTERM, and says the child's number.
_FAMILY = """
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                          "print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


class Family:
    """A process with a stubborn child, as a server with its stub."""

    def __init__(self, state: State) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", _FAMILY],
            stdout=subprocess.PIPE,
            env={**os.environ, MARK: str(state.folder)},
            start_new_session=True,
        )
        assert self.parent.stdout is not None
        child = identify(int(self.parent.stdout.readline()))
        leader = identify(self.parent.pid)
        assert child is not None and leader is not None
        self.child, self.leader = child, leader

    def end(self) -> None:
        for identity in (self.child, self.leader):
            send(identity, signal.SIGKILL)
        self.parent.wait()
        assert self.parent.stdout is not None
        self.parent.stdout.close()


def test_a_number_that_is_used_again_is_another_process() -> None:
    me = identify(os.getpid())
    assert me is not None and alive(me)
    assert not alive(replace(me, started_ticks=me.started_ticks - 1))
    assert not alive(replace(me, boot_id="another boot"))


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identify(process.pid) is None
    process.wait()


def test_a_process_whose_first_thread_has_ended_is_alive_until_the_last_has() -> None:
    # As a killed server with many threads for some milliseconds: its port is not free before.
    code = (
        "import ctypes, threading; threading.Thread(target=input).start(); print(flush=True);"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rsplit(") ", 1)[1].startswith("Z"), 60, "its first thread has ended")
    assert identify(process.pid) is not None
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identify(process.pid) is None
    process.communicate()


def test_a_signal_for_a_former_owner_of_the_number_reaches_nobody() -> None:
    process = subprocess.Popen(["/bin/sleep", "60"])
    identity = identify(process.pid)
    assert identity is not None
    send(replace(identity, started_ticks=identity.started_ticks - 1), signal.SIGKILL)
    assert process.poll() is None
    send(identity, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_children_are_found_also_after_their_parent_was_killed(tmp_path: Path) -> None:
    state = State(tmp_path)
    family = Family(state)
    try:
        assert set(session_members(family.leader, state.mark)) == {family.leader, family.child}
        family.parent.kill()
        family.parent.wait()
        assert session_members(family.leader, state.mark) == [family.child]
        assert session_members(family.leader, f"{MARK}=/another/stack") == []
        assert kill_session(Record(name="triton", identity=family.leader), state) == 1
        assert not alive(family.child)
    finally:
        family.end()


def test_the_session_of_a_number_that_was_given_out_again_is_empty(tmp_path: Path) -> None:
    state = State(tmp_path)
    family = Family(state)
    try:
        former = Identity(family.leader.pid, family.leader.started_ticks - 1, family.leader.boot_id)
        assert session_members(former, state.mark) == []
    finally:
        family.end()


def test_orphans_end_with_their_children_and_their_shared_memory(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.create()
    family = Family(state)
    prefix = f"freshet-test-{os.getpid()}-"
    region = Path("/dev/shm") / f"{prefix}region"
    region.write_bytes(b"left")
    try:
        state.write_record(Record(name="triton", identity=family.leader, shm_prefix=prefix))
        bystander = subprocess.Popen(["/bin/sleep", "60"])
        # The parent is a child of this test: reaped here, or it would stay a zombie.
        assert end_orphans(state, timeout_s=5.0) == ["triton"]
        assert wait_gone([family.child], 5.0) == []
        assert not region.exists()
        assert state.records() == []
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()
    finally:
        region.unlink(missing_ok=True)
        family.end()


def test_a_record_of_an_earlier_boot_ends_nobody(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.create()
    process = subprocess.Popen(["/bin/sleep", "60"], env={MARK: str(tmp_path)}, start_new_session=True)
    wait_until(lambda: identify(process.pid), 5, "it runs")
    identity = identify(process.pid)
    assert identity is not None
    state.write_record(Record(name="redis", identity=replace(identity, boot_id="earlier")))
    assert end_orphans(state, timeout_s=1.0) == []
    assert process.poll() is None
    process.kill()
    process.wait()
