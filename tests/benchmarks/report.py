"""What every benchmark shares: its command line, and the median time of a piece of work. See infra.figures."""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.figures import Figure, Options, Report

__all__ = ["Figure", "Options", "Report", "parse", "seconds"]


def parse(description: str, arguments: Sequence[str] | None = None) -> Options:
    """`--quick` and `--json FILE` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    chosen = parser.parse_args(arguments)
    return Options(quick=chosen.quick, json=chosen.json)


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
