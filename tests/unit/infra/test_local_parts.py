"""The small parts of the local stack: backoff, order, records, logs, locks of what is fetched, durations."""

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.lag import Lag, lags
from infra.local import kafka, logs, redis
from infra.local.backoff import Backoff
from infra.local.identity import Identity
from infra.local.install import InstallError, once, verify
from infra.local.service import Service, in_order
from infra.local.state import Record, State
from infra.process import OneLine, Seldom
from infra.status_table import ago
from tests.stacks import wait_until


def service(name: str, *needs: str) -> Service:
    return Service(name=name, needs=needs, launch=None, probe=lambda *_: "", addresses=lambda _: {})


def test_waits_double_up_to_the_longest_and_begin_anew_after_a_steady_time() -> None:
    backoff = Backoff(first_s=0.5, max_s=3.0, steady_s=60.0)
    assert [backoff.crashed(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.crashed(up_for_s=61.0) == 0.5
    backoff.crashes = 5_000
    assert backoff.crashed(0.0) == 3.0


@given(st.permutations(["kafka", "redis", "worker", "replica", "triton"]))
def test_every_service_comes_after_what_it_needs(names: list[str]) -> None:
    needs = {"worker": ("kafka",), "replica": ("kafka",), "triton": ("redis", "replica", "elsewhere")}
    ordered = [s.name for s in in_order(tuple(service(name, *needs.get(name, ())) for name in names))]
    assert sorted(ordered) == sorted(names)
    for name in names:
        for need in needs.get(name, ()):
            assert need not in ordered or ordered.index(need) < ordered.index(name)


def test_a_circle_of_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="a, b"):
        in_order((service("a", "b"), service("b", "a")))


def test_records_are_kept_until_removed_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.create()
    record = Record(name="kafka", identity=Identity(1, 2, "boot"), shm_prefix="x")
    state.write_record(record)
    (tmp_path / "processes" / "torn.json").write_text('{"name": "t')
    assert State(tmp_path).records() == [record]
    state.remove_record("kafka")
    assert state.records() == []


def test_a_state_folder_has_one_supervisor(tmp_path: Path) -> None:
    first, second = State(tmp_path), State(tmp_path)
    assert first.lock()
    assert not second.lock()
    first.unlock()
    assert second.lock()
    second.unlock()


def test_a_log_is_cut_at_its_limit_while_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "kafka.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 10)
        assert not logs.rotate(path, 41)
        assert logs.rotate(path, 40)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "kafka.log.1").read_bytes() == b"old\n" * 10


@given(st.lists(st.text(alphabet="abc", max_size=30), max_size=50), st.integers(0, 60), st.booleans())
def test_the_tail_is_that_of_the_whole_file(lines: list[str], count: int, ended: bool) -> None:
    text = "\n".join(lines) + ("\n" if ended else "")
    path = Path("/dev/shm") / f"freshet-test-tail-{threading.get_ident()}"
    try:
        path.write_text(text)
        assert logs.tail(path, count) == b"".join(text.encode().splitlines(keepends=True)[-count:] if count else [])
    finally:
        path.unlink(missing_ok=True)


def test_a_tail_longer_than_one_chunk_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    lines = [f"{k} {'x' * 200}\n".encode() for k in range(2_000)]
    path.write_bytes(b"".join(lines))
    assert logs.tail(path, 1_500) == b"".join(lines[-1_500:])


def test_following_a_log_survives_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    found: list[bytes] = []
    going = threading.Event()
    going.set()
    reading = threading.Event()

    def follow() -> None:
        def goes() -> bool:
            reading.set()
            return going.is_set()

        found.extend(logs.follow(path, goes, poll_s=0.01))

    reader = threading.Thread(target=follow)
    reader.start()
    try:
        assert reading.wait(30)
        with path.open("ab", buffering=0) as writer:
            writer.write(b"one\n")
            wait_until(lambda: b"".join(found) == b"one\n", 30, "the line is followed")
            logs.rotate(path, 1)
            writer.write(b"2\n")
            wait_until(lambda: b"".join(found) == b"one\n2\n", 30, "the line after the cut is followed")
    finally:
        going.clear()
        reader.join()


def test_what_is_fetched_is_built_once_by_many_and_never_half(tmp_path: Path) -> None:
    lock = tmp_path / "server.lock"
    lock.write_text("one")
    built: list[Path] = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "part").write_text("whole")

    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(once(tmp_path / "cache", "server", lock, build)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert len(set(folders)) == 1
    assert (folders[0] / "part").read_text() == "whole"
    lock.write_text("two")
    assert once(tmp_path / "cache", "server", lock, build) not in folders


def test_a_build_that_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    lock = tmp_path / "server.lock"
    lock.write_text("one")

    def broken(folder: Path) -> None:
        (folder / "part").write_text("half")
        raise InstallError("the network went away")

    with pytest.raises(InstallError):
        once(tmp_path / "cache", "server", lock, broken)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["server.lock"]
    once(tmp_path / "cache", "server", lock, lambda folder: (folder / "part").touch())


def test_a_jar_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    jar = tmp_path / "kafka.jar"
    jar.write_bytes(b"forged")
    verify(jar, hashlib.sha256(b"forged").hexdigest())
    with pytest.raises(InstallError, match=r"kafka\.jar has SHA-256"):
        verify(jar, hashlib.sha256(b"true").hexdigest())


def test_the_lock_of_kafka_pins_the_broker_and_every_jar() -> None:
    artifacts = kafka.read_lock(kafka.LOCK.read_text())
    assert any((artifact.name, artifact.version) == ("kafka_2.13", "4.1.0") for artifact in artifacts)
    assert len({(artifact.group, artifact.name) for artifact in artifacts}) == len(artifacts)
    assert all(len(artifact.sha256) == 64 for artifact in artifacts)


def test_redis_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    redis.launch(redis.Installed(server=Path("/redis-server")), tmp_path / "with blank", port=1234)
    lines = (tmp_path / "with blank" / "redis.conf").read_text().splitlines()
    assert {"bind 127.0.0.1", "port 1234", f'dir "{tmp_path}/with blank/data"'} <= set(lines)


def test_kafka_listens_on_the_loopback_alone(tmp_path: Path) -> None:
    kafka.launch(kafka.Installed(classpath="/jars/*", java=Path("/java")), tmp_path, 1234, 1235)
    lines = (tmp_path / "server.properties").read_text().splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:1234,CONTROLLER://127.0.0.1:1235" in lines


def test_lag_is_summed_per_topic_and_counts_only_what_was_committed() -> None:
    from kafka import TopicPartition

    a0, a1, b0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)
    ends = {a0: 10, a1: 20, b0: 5}
    committed = {"worker": {a0: 4, a1: 20, b0: -1}, "gone": {TopicPartition("deleted", 0): 3}}
    assert lags(committed, ends) == (Lag(group="worker", topic="a", records=6),)


def test_a_repeated_complaint_is_heard_seldom() -> None:
    import logging

    now_s = [0.0]
    seldom = Seldom(interval_s=10.0, clock=lambda: now_s[0])

    def heard(message: str) -> bool:
        return seldom.filter(logging.LogRecord("kafka.net", logging.ERROR, "", 0, message, (), None))

    assert heard("no broker, again in 0.4 s")
    assert not heard("no broker, again in 0.8 s")
    assert heard("something else")
    now_s[0] = 10.0
    assert heard("no broker, again in 3.2 s")


def test_a_record_is_one_line_with_its_traceback() -> None:
    import logging
    import sys

    try:
        raise ValueError("broken\ntwice")
    except ValueError:
        record = logging.LogRecord("worker", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    line = OneLine("%(message)s").format(record)
    assert "\n" not in line
    assert line.startswith("failed | Traceback")
    assert line.endswith("broken | twice")


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0 s"), (59_999, "59 s"), (60_000, "1 min"), (3_725_000, "1 h 2 min"), (90_000_000, "1 d 1 h")]
)
def test_durations_show_their_two_largest_units(ms: int, text: str) -> None:
    assert ago(ms) == text
