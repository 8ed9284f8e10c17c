"""What the benchmarks over ml-100k share: their command line, the ratings, and figures over seeds."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from online_learning.studies.intervals import t_interval
from streams.datasets.dataset import Dataset
from streams.datasets.movielens import open_ml_100k
from tests.benchmarks.report import Options, Report, parse

QUICK_ROWS = 20_000
BATCH = 64

Figures = dict[str, dict[str, float]]


def options(description: str | None, extra: Mapping[str, str] | None = None) -> Options:
    """The common command line and `--seeds N`; a benchmark adds its own."""
    return parse(description or "", extra={"seeds": "how many, 1", **(extra or {})})


def over_seeds(chosen: Options, measure: Callable[[Dataset, int, int], Figures], title: str) -> int:
    """Reports the mean over seeds of each figure of measure(data set, rows, seed), figures by name and metric."""
    folder = os.environ.get("FRESHET_DATA")
    if not folder:
        raise SystemExit("FRESHET_DATA must name the folder of the data sets")
    torch.set_num_threads(1)
    dataset = open_ml_100k(Path(folder))
    rows = QUICK_ROWS if chosen.quick else dataset.rows
    seeds = range(int(chosen.extra.get("seeds", "1")))
    items = sum(1 for _ in dataset.items())
    report = Report(
        title,
        chosen,
        packages=("torch", "numpy", "river"),
        sizes={"ml-100k ratings in time order": rows, "batch": BATCH, "items": items},
        seeds=tuple(seeds),
    )
    results = [measure(dataset, rows, seed) for seed in seeds]
    for name, figures in results[0].items():
        for metric in figures:
            found = t_interval([one[name][metric] for one in results])
            note = f"± {found.half:.4f} over seeds" if found.n > 1 else ""
            report.add(f"{name}: {metric}", found.mean, "", note=note)
    return report.finish()
