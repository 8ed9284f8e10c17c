"""What is counted of users is the same however little memory there is, and memory counts what is in it."""

from pathlib import Path

from streams.kept import Written
from streams.local_state import opened
from streams.records import Action
from streams.user_table import UserTable

MEMORY_BYTES = 2**20


def acted(user: str, n: int) -> Action:
    ts = 1_000 * n
    return Action(ts=ts, user=user, item=f"item-{n}", kind="click", event_id=f"e{n}", received_at=ts)


def commit(table: UserTable) -> None:
    changes: Written = {}
    table.drain(changes)
    table._disk.apply(changes, None)
    table.kept.settle()
    assert table.touched() == {}


def test_counts_of_users_go_on_from_the_disk_where_memory_had_no_room(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state", MEMORY_BYTES)
    small, large = UserTable(disk, 0), UserTable(opened(tmp_path / "other", MEMORY_BYTES), MEMORY_BYTES)
    for n in range(60):
        for table in (small, large):
            table.of(f"user-{n % 3}").add_action(acted(f"user-{n % 3}", n))
            commit(table)
    assert small.kept.loads > 50 > large.kept.loads == 0
    for k in range(3):
        assert small.of(f"user-{k}") == large.of(f"user-{k}")
        assert small.of(f"user-{k}").version == 20
    disk.close()
    large._disk.close()


def test_a_user_who_grows_takes_the_memory_of_what_he_grew_to(tmp_path: Path) -> None:
    disk = opened(tmp_path / "state", MEMORY_BYTES)
    table = UserTable(disk, MEMORY_BYTES)
    table.of("user")
    commit(table)
    empty_bytes = table.kept.memory_bytes
    for n in range(20):
        table.of("user").add_action(acted("user", n))
    grown_bytes = len(disk.get(b"u/user") or b"")
    commit(table)
    growth_bytes = len(disk.get(b"u/user") or b"") - grown_bytes
    assert growth_bytes > 20 * len("item-0")
    assert table.kept.memory_bytes - empty_bytes == growth_bytes
    disk.close()
