"""A recovery ends with the first frame that holds what came after the kill, and with no earlier one."""

from collections import Counter
from pathlib import Path

from infra.chaos import report
from infra.chaos.compare import Check
from infra.chaos.plan import Plan
from infra.chaos.recovery import Outage, Watch
from serving.shared.head import Lineage


def outage(victim: str = "trainer") -> Outage:
    return Outage((victim,), "kill -9", at_s=100.0, at_ms=1_000, ends={0: 10, 1: 20})


def frame(learned: dict[int, int], created_at: int = 2_000) -> Lineage:
    return Lineage(2, 1, learned, created_at, created_at + 1)


def test_a_frame_from_before_the_kill_ends_nothing() -> None:
    one = outage()
    one.look(frame({0: 99, 1: 99}, created_at=999), 101.0)
    assert one.next_frame_s is None


def test_a_frame_of_what_was_there_at_the_kill_ends_nothing() -> None:
    one = outage()
    one.look(frame({0: 10, 1: 20}), 101.0)
    assert one.next_frame_s is None


def test_the_next_frame_and_every_partition_are_told_apart() -> None:
    one = outage()
    one.look(frame({0: 10, 1: 21}), 104.0)
    assert (one.next_frame_s, one.everywhere_s) == (4.0, None)
    one.look(frame({0: 11, 1: 30}), 106.0)
    assert (one.next_frame_s, one.everywhere_s) == (4.0, 6.0)


def test_a_kill_amid_another_outage_is_told_apart(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    first = watch.killed(("kafka",), "kill -9", 1.0, 1_000, {0: 1})
    second = watch.killed(("worker",), "kill -9", 2.0, 2_000, {0: 1})
    assert (first.interrupted, second.amid, second.who) == (True, ("kafka",), "worker amid another")
    second.next_frame_s = 5.0
    third = watch.killed(("worker",), "kill -9", 9.0, 9_000, {0: 1})
    assert (second.interrupted, third.amid, third.who) == (False, (), "worker")


def test_an_epoch_after_a_newer_one_is_a_failure(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    for epoch in (1, 0, 1, 3, 3):
        watch.look(Lineage(epoch, 1), 1.0)
    assert watch.onward() == Check("no epoch after a newer one", "2 epochs")
    assert watch.lineage.epoch == 3
    watch.look(Lineage(2, 9), 2.0)
    assert watch.onward().wrong == "epoch 2 after epoch 3"
    assert not made([], watch.onward()).ok


def made(outages: list[Outage], *checks: Check, errors: tuple[str, ...] = ()) -> report.Report:
    return report.make(Plan(budget_s=30.0), [], outages, Counter(), list(checks), list(errors), 1.0)


def test_a_recovery_beyond_the_budget_is_a_failure() -> None:
    slow, quick = outage(), outage("replica")
    quick.next_frame_s = quick.everywhere_s = 2.0
    slow.next_frame_s = slow.everywhere_s = 31.0
    assert made([quick]).ok
    found = made([quick, slow])
    assert not found.ok
    assert [one.max_s for one in found.recoveries] == [2.0, 31.0, 31.0]
    assert found.killed == {"trainer": 1, "replica": 1}


def test_one_difference_or_one_error_is_a_failure() -> None:
    assert made([], Check("rows", "5 rows")).ok
    assert not made([], Check("rows", "5 rows"), Check("more rows", "6 rows", "one differs")).ok
    assert not made([], errors=("not within 3 s",)).ok
