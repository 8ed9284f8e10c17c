"""What a run found: printed as tables, written as JSON."""

from collections import Counter
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from infra.chaos.compare import Check
from infra.chaos.plan import Plan
from infra.chaos.recovery import Outage
from infra.figures import Machine, machine
from streams.failpoints import CATALOGUE

_PACKAGES: Final = ("torch", "kafka-python", "aiokafka", "faust-streaming")


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from kills of these victims to the next applied frame, and until every partition went on."""

    victims: str
    kills: int
    p50_s: float
    max_s: float
    everywhere_max_s: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`killed`: processes ended by kill -9 from outside, by name. `points`: how often each failpoint struck.
    `interrupted`: kills that were followed by the next before frames flowed, and so have no recovery of their own."""

    plan: Plan
    machine: Machine
    schedule: list[str]
    killed: dict[str, int]
    points: dict[str, int]
    recoveries: list[Recovery]
    outages: list[Outage]
    interrupted: int
    checks: list[Check]
    errors: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything is as it should be."""
        return not self.errors and all(check.ok for check in self.checks)


def recoveries(outages: list[Outage]) -> list[Recovery]:
    """By victims, and of all together; of those that were not interrupted."""
    groups: dict[str, list[Outage]] = {}
    for outage in outages:
        if outage.next_frame_s is not None:
            groups.setdefault(outage.who, []).append(outage)
    order = sorted(groups.items(), key=lambda group: (group[0].count("+"), group[0]))
    if order:
        order.append(("all", [outage for group in groups.values() for outage in group]))
    found = []
    for name, group in order:
        seconds = [outage.next_frame_s or 0.0 for outage in group]
        everywhere = max((outage.everywhere_s or 0.0 for outage in group), default=0.0)
        found.append(Recovery(name, len(group), float(np.median(seconds)), max(seconds), everywhere))
    return found


def make(
    plan: Plan,
    schedule: list[str],
    outages: list[Outage],
    points: Counter[str],
    checks: list[Check],
    errors: list[str],
    seconds: float,
) -> Report:
    """The report, with the checks that follow from figures: recoveries within the budget, every failpoint struck."""
    times = recoveries(outages)
    late = [one for one in times if one.victims != "all" and one.max_s > plan.budget_s]
    checks = list(checks)
    if times:
        wrong = ", ".join(f"{one.victims}: {one.max_s:.1f} s" for one in late)
        asked = f"kill to next applied frame within {plan.budget_s:g} s"
        checks.append(Check(asked, f"{times[-1].kills} recoveries, longest {times[-1].max_s:.1f} s", wrong))
    killed: Counter[str] = Counter()
    for outage in outages:
        if outage.why == "kill -9":
            killed.update(outage.victims)
    return Report(
        plan=plan,
        machine=machine(_PACKAGES),
        schedule=schedule,
        killed=dict(killed),
        points=dict(sorted(points.items())),
        recoveries=times,
        outages=outages,
        interrupted=sum(outage.interrupted for outage in outages),
        checks=checks,
        errors=errors,
        seconds=seconds,
    )


def show(report: Report, console: Console) -> None:
    """Prints it."""
    if report.points:
        grid = Table("failpoint", "stands where", "struck", title="failpoints", title_justify="left")
        for name, times in report.points.items():
            grid.add_row(name, CATALOGUE[name].what, str(times))
        console.print(grid)
    if report.killed:
        console.print("kill -9: " + ", ".join(f"{name} {n}" for name, n in sorted(report.killed.items())))
    if report.recoveries:
        grid = Table(
            "victims", "kills", "p50 s", "max s", "everywhere, max s", title="from the kill to the next applied frame"
        )
        for one in report.recoveries:
            figures = (one.p50_s, one.max_s, one.everywhere_max_s)
            grid.add_row(one.victims, str(one.kills), *(f"{figure:.1f}" for figure in figures))
        console.print(grid)
        if report.interrupted:
            console.print(f"{report.interrupted} more were killed again before frames flowed", highlight=False)
    grid = Table("compared", "with what", "verdict", title="comparisons", title_justify="left")
    for check in report.checks:
        verdict = "[green]as it should be[/]" if check.ok else "[red]WRONG[/]"
        grid.add_row(check.name, check.compared, verdict)
    console.print(grid)
    for check in report.checks:
        if not check.ok:
            console.print(f"{check.name}: {check.wrong}", style="red", markup=False, highlight=False)
    for error in report.errors:
        console.print(error, style="red", markup=False, highlight=False)
    where = f"{report.machine.cpu}, {report.machine.cores} cores, load {report.machine.load}"
    words = "everything is as it should be" if report.ok else "NOT as it should be"
    console.print(f"seed {report.plan.seed}, {report.seconds:.0f} s on {where}: {words}", highlight=False)


def write(report: Report, path: Path) -> None:
    """Writes it for other programs."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
