"""Ports are free when they are chosen, nobody else gets them until their server starts, and clashes are seen."""

import random
import socket
from pathlib import Path

import pytest

from infra.local.ports import PortBook, PortTaken, hold, hold_free, is_free


def test_a_held_port_is_given_to_nobody_else() -> None:
    held = hold_free(None, random.Random(1))
    with pytest.raises(PortTaken):
        hold(held.port)
    again = hold_free(held.port, random.Random(2))
    assert again.port != held.port
    again.release()
    held.release()
    assert is_free(held.port)


def test_the_port_of_the_last_time_is_taken_again_where_it_is_free() -> None:
    port = hold_free(None, random.Random()).release()
    held = hold_free(port, random.Random())
    assert held.port == port
    held.release()


def test_ports_lie_where_no_outgoing_connection_takes_them() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if first <= 21_000:
        pytest.skip("this kernel gives nearly all ports to outgoing connections")
    for seed in range(20):
        assert hold_free(None, random.Random(seed)).release() < first


def test_many_stacks_at_once_get_different_ports() -> None:
    books = [PortBook(["kafka", "redis"], {}, random.Random(7)) for _ in range(20)]
    numbers = [number for book in books for number in book.numbers.values()]
    assert len(set(numbers)) == 40
    for book in books:
        book.release(["kafka", "redis"])


def test_a_port_that_somebody_took_in_between_is_named_and_replaced() -> None:
    book = PortBook(["redis"], {}, random.Random())
    book.release(["redis"])
    assert book.taken(["redis"]) == []
    with socket.create_server(("127.0.0.1", book.numbers["redis"])) as thief:
        assert book.taken(["redis"]) == [thief.getsockname()[1]]
        book.replace(["redis"])
        assert book.numbers["redis"] != thief.getsockname()[1]
        assert book.taken(["redis"]) == [], "our own hold counts as free"
    book.release(["redis"])
