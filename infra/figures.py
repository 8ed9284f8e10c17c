"""One form for every measurement: what ran where, what came out, what was asked, and whether it was met.

report = Report("table", options, packages=("numpy", "numba"), sizes={"rows": 4_000_000}, seeds=(1,))
report.add("find + gather", 31.2e6, "keys/s", at_least=23e6, note="torch index_select")
raise SystemExit(report.finish())
"""

import math
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from rich.table import Table as Grid

from infra.console import out


class Options(msgspec.Struct, frozen=True):
    """What every measurement takes. `quick`: small sizes that show the benchmark works, not what it measures.

    `extra`: the options of one measurement alone, those that were given, by name.
    """

    quick: bool = False
    json: Path | None = None
    extra: dict[str, str] = {}


class Figure(msgspec.Struct, frozen=True):
    """One measured value. `asked` is the bar as text; `met` is None where none was set or sizes were quick."""

    name: str
    value: float
    unit: str
    asked: str = ""
    met: bool | None = None
    note: str = ""


class Machine(msgspec.Struct, frozen=True):
    """Where it ran. `load`: the one-minute load average before the first measurement."""

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    load: float
    packages: dict[str, str]


def machine(packages: Sequence[str]) -> Machine:
    """This machine, as far as a figure depends on it."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 2),
        packages={name: _version(name) for name in packages},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


class Report:
    """Collects figures, prints them, and says by its exit status whether every bar was met.

    `told`: each figure is printed as it comes, too, for measurements that take long.
    """

    def __init__(
        self,
        title: str,
        options: Options,
        *,
        packages: Sequence[str] = (),
        sizes: Mapping[str, int | float | str] | None = None,
        seeds: Sequence[int] = (),
        told: bool = True,
    ) -> None:
        self.title, self.options, self._told = title, options, told
        self.machine = machine(packages)
        self.sizes, self.seeds = dict(sizes or {}), list(seeds)
        self.figures: list[Figure] = []
        self.notes: list[str] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        equals: float | None = None,
        note: str = "",
    ) -> Figure:
        """Note one figure and what was asked of it."""
        asked, met = "", None
        if at_least is not None:
            asked, met = f">= {_number(at_least)}", value >= at_least
        if at_most is not None:
            asked, met = f"<= {_number(at_most)}", value <= at_most
        if equals is not None:
            asked, met = f"= {_number(equals)}", value == equals
        figure = Figure(name, float(value), unit, asked, None if self.options.quick else met, note)
        self.figures.append(figure)
        if self._told:
            print(f"  {name}: {_number(value)} {unit}", file=sys.stderr, flush=True)
        return figure

    def note(self, text: str) -> None:
        """A line under the table: what could not be measured, and why."""
        self.notes.append(text)

    def finish(self) -> int:
        """Print the table, write the JSON where one was asked for; 1 where a bar was missed, else 0."""
        place = self.machine
        out.print(f"[bold]{self.title}[/]{' (quick: sizes too small to judge)' if self.options.quick else ''}")
        out.print(
            f"{place.cpu}, {place.cores} cores, {place.memory_bytes / 2**30:.0f} GiB, {place.system}, "
            f"Python {place.python}, load {place.load} at the start",
            highlight=False,
        )
        for label, values in (("packages", place.packages), ("sizes", self.sizes)):
            if values:
                out.print(f"{label}: " + ", ".join(f"{k} {v}" for k, v in values.items()), highlight=False)
        if self.seeds:
            out.print(f"seeds: {', '.join(map(str, self.seeds))}", highlight=False)
        grid = Grid()
        for heading in ("figure", "value", "unit", "asked", "met", "note"):
            grid.add_column(heading, justify="right" if heading == "value" else "left")
        for figure in self.figures:
            met = "" if figure.met is None else "yes" if figure.met else "NO"
            grid.add_row(figure.name, _number(figure.value), figure.unit, figure.asked, met, figure.note)
        out.print(grid)
        for text in self.notes:
            out.print(text, highlight=False)
        if self.options.json is not None:
            content = {
                "title": self.title,
                "quick": self.options.quick,
                "machine": self.machine,
                "sizes": self.sizes,
                "seeds": self.seeds,
                "figures": self.figures,
                "notes": self.notes,
            }
            self.options.json.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        return int(any(figure.met is False for figure in self.figures))


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    if 0.001 <= abs(value) < 100_000:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.3g}"
