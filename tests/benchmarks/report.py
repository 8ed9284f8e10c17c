"""What every benchmark shares: its command line, and the median time of a piece of work. See infra.figures."""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.figures import Figure, Options, Report

__all__ = ["Figure", "Options", "Report", "parse", "seconds"]


def parse(description: str, arguments: Sequence[str] | None = None, extra: Mapping[str, str] | None = None) -> Options:
    """`--quick`, `--json FILE` and `--NAME VALUE` for every name in `extra` (name: help) from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    for name, text in (extra or {}).items():
        parser.add_argument(f"--{name}", help=text)
    chosen = vars(parser.parse_args(arguments))
    given = {name: chosen[name.replace("-", "_")] for name in extra or {}}
    return Options(
        quick=chosen["quick"],
        json=chosen["json"],
        extra={name: value for name, value in given.items() if value is not None},
    )


def seconds(work: Callable[[], object], repeats: int = 5, warm_ups: int = 1) -> float:
    """The median wall time in s of `work` over `repeats` calls, after `warm_ups` that are not counted."""
    for _ in range(warm_ups):
        work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
