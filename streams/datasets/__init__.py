"""Real logs as iterators of records."""

from collections.abc import Callable, Mapping
from pathlib import Path

from streams.datasets import frappe, globo, movielens
from streams.datasets.dataset import Dataset, DatasetMissing

__all__ = ["DATASETS", "Dataset", "DatasetMissing", "open_dataset"]

DATASETS: Mapping[str, Callable[[Path], Dataset]] = {
    "ml-100k": movielens.open_ml_100k,
    "globo": globo.open_globo,
    "frappe": frappe.open_frappe,
}


def open_dataset(name: str, folder: Path) -> Dataset:
    """The data set `name` under `folder`; raises ValueError for another name, DatasetMissing without its files."""
    if name not in DATASETS:
        raise ValueError(f"data set {name!r}, must be one of: {', '.join(DATASETS)}")
    return DATASETS[name](folder)
