"""The local stack on real servers: it comes up, survives kills, and leaves nothing behind."""

import socket
import uuid
from pathlib import Path

import pytest
from kafka import KafkaProducer

from infra.local.ports import is_free
from streams.logs import ends_of, raw_records
from streams.settings import KafkaSettings
from tests.stacks import RunningStack, gone, running_stack

pytestmark = pytest.mark.servers


def sent_and_read(bootstrap: str, topic: str, value: bytes) -> list[bytes]:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(topic, value, partition=0).get(30)
    producer.close()
    return read(bootstrap, topic)


def read(bootstrap: str, topic: str) -> list[bytes]:
    settings = KafkaSettings(bootstrap=bootstrap)
    return [record.value for record in raw_records(settings, ends_of(settings, [topic]))]


def redis_says(address: str, *words: str) -> bytes:
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall((" ".join(words) + "\r\n").encode())
        return connection.recv(1_000)


def test_what_is_sent_to_the_stack_is_read_back(kafka: str, redis: str) -> None:
    value = uuid.uuid4().bytes
    assert value in sent_and_read(kafka, "events", value)
    assert redis_says(redis, "SET", "a", "1") == b"+OK\r\n"
    assert redis_says(redis, "GET", "a") == b"$1\r\n1\r\n"


def test_a_stopped_stack_leaves_no_process_and_no_port(tmp_path: Path) -> None:
    with running_stack(tmp_path, "kafka", "redis") as stack:
        pids = [stack.pid("kafka"), stack.pid("redis")]
        ports = list(stack.state.read_ports().values())
        assert not any(is_free(port) for port in ports if port != stack.state.read_ports()["kafka_controller"])
    assert all(gone(pid) for pid in pids)
    assert all(is_free(port) for port in ports)
    assert stack.state.records() == []


def test_the_next_start_ends_what_a_killed_supervisor_left(tmp_path: Path) -> None:
    with running_stack(tmp_path, "kafka", "redis") as first:
        left = [first.pid("kafka"), first.pid("redis")]
        address = first.settings.kafka.bootstrap
        assert sent_and_read(address, "events", b"before") == [b"before"]
        first.supervisor.kill()
        first.supervisor.wait()
        assert not any(gone(pid) for pid in left)
        with running_stack(tmp_path, "kafka", "redis") as second:
            assert all(gone(pid) for pid in left)
            assert second.settings.kafka.bootstrap == address, "a known address was given up without need"
            assert read(second.settings.kafka.bootstrap, "events") == [b"before"]


def test_a_killed_kafka_comes_back_with_its_data(fresh_kafka: RunningStack) -> None:
    address = fresh_kafka.settings.kafka.bootstrap
    assert sent_and_read(address, "events", b"kept") == [b"kept"]
    pid = fresh_kafka.pid("kafka")
    fresh_kafka.wait_back("kafka", fresh_kafka.kill("kafka"))
    assert gone(pid)
    assert fresh_kafka.settings.kafka.bootstrap == address
    assert read(address, "events") == [b"kept"]
