"""Measured figures: name, value, what was asked, met or not, and the machine they were measured on."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value; `met` is None where nothing was asked."""

    name: str
    value: float | int | str
    unit: str = ""
    asked: str = ""
    met: bool | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run. `setup` names sizes, seeds and peers."""

    subject: str
    at: str
    machine: dict[str, str]
    setup: dict[str, str | int | float]
    figures: tuple[Figure, ...]

    @property
    def met(self) -> bool:
        """True where nothing that was asked was missed."""
        return all(figure.met is not False for figure in self.figures)


def report(subject: str, setup: dict[str, str | int | float], figures: Sequence[Figure], now_s: float) -> Report:
    """The figures with the machine and the time (`now_s`, seconds since the epoch) beside them."""
    at = datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
    return Report(subject=subject, at=at, machine=machine(), setup=setup, figures=tuple(figures))


def machine() -> dict[str, str]:
    """Processor, cores, memory and the versions that speed depends on."""
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("numpy", "numba", "torch")},
    }


def show(done: Report, console: Console) -> None:
    """Prints the figures as a table."""
    table = Table(title=done.subject, title_justify="left")
    for heading in ("figure", "value", "asked", "met"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for figure in done.figures:
        value = figure.value if isinstance(figure.value, str) else f"{figure.value:,.6g}"
        met = {True: "yes", False: "NO", None: ""}[figure.met]
        style = "red" if figure.met is False else None
        table.add_row(figure.name, f"{value} {figure.unit}".rstrip(), figure.asked, met, style=style)
    console.print(table)
    for title, entries in (("machine", done.machine), ("setup", done.setup)):
        if entries:
            console.print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in entries.items()), soft_wrap=True)


def write(done: Report, path: Path) -> None:
    """Writes the report as one JSON document."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=2) + b"\n")


def _cpu() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":", 1)[1].strip() if names else platform.processor() or sys.platform


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
