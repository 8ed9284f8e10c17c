"""The picture of a status report: an alarm is seen, and a time is told as how long ago it was."""

from rich.console import Console

from infra.status import Report, Row
from infra.status_table import status_table


def picture(**health: float | int | str) -> str:
    return drawn(Row(name="trainer", state="up", since_ms=0, said_ms=200_000, health=health))


def drawn(row: Row) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as said:
        console.print(status_table(Report(phase="up", at_ms=200_000, state_dir="here", processes=(row,))))
    return said.get()


def test_an_alarm_has_its_own_line() -> None:
    said = picture(alarm="click: worse [a]", drift_click=80_000, learned=5)
    assert "ALARM trainer: click: worse [a]\n" in said.replace(" \n", "\n")
    assert "drift_click 2 min ago" in said
    assert said.count("worse") == 1


def test_where_nothing_is_wrong_nothing_is_said_of_it() -> None:
    said = picture(alarm="", drift_click=0, learned=5)
    assert "ALARM" not in said
    assert "drift" not in said
    assert "learned 5" in said


def test_a_fenced_trainer_says_by_whom() -> None:
    said = drawn(Row(name="trainer", state="fenced", since_ms=0, reason="fenced by epoch 7: another trainer has"))
    assert "fenced by epoch 7" in said
