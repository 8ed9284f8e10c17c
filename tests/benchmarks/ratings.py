"""What the benchmarks over ml-100k share: their command line, the ratings, and a line of figures for each seed."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from streams.datasets.dataset import Dataset
from streams.datasets.movielens import open_ml_100k

QUICK_ROWS = 20_000

Figures = dict[str, dict[str, float]]


def options(description: str | None) -> argparse.ArgumentParser:
    """`--quick`, `--json FILE`, `--batch N`, `--seeds N`; a benchmark adds its own."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK_ROWS:,} ratings only")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1)
    return parser


def over_seeds(
    chosen: argparse.Namespace, measure: Callable[[Dataset, int, int], Figures], title: str, width: int
) -> None:
    """Prints the machine and, for each seed, the figures by name of measure(data set, rows, seed); keeps them all.

    `width`: columns of the longest name.
    """
    folder = os.environ.get("FRESHET_DATA")
    if not folder:
        raise SystemExit("FRESHET_DATA must name the folder of the data sets")
    torch.set_num_threads(1)
    dataset = open_ml_100k(Path(folder))
    rows = QUICK_ROWS if chosen.quick else dataset.rows
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    items = sum(1 for _ in dataset.items())
    print(f"{title}; ml-100k, {rows} ratings in time order, batches of {chosen.batch}, {items} items")
    results = []
    for seed in range(chosen.seeds):
        results.append(measure(dataset, rows, seed))
        for name, figures in results[-1].items():
            line = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
            print(f"seed {seed} {name:{width}s}", line, flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=1))
