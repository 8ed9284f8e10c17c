"""Frappe_x1: the BARS split of Frappe as rows of ids. Its train negatives are re-drawn."""

from pathlib import Path
from typing import Final

from online_learning.studies.datasets.labelled import Labelled
from online_learning.studies.datasets.parquet import open_parquet

FOLDER: Final = "frappe_x1"
FIELDS: Final = (
    "user",
    "item",
    "daytime",
    "weekday",
    "isweekend",
    "homework",
    "cost",
    "weather",
    "country",
    "city",
)
REDRAWN: Final = (
    "Frappe_x1's train negatives are re-drawn here (its train positives, valid and test are exact): figures compare "
    "with published ones only roughly, and a gap under .003 AUC proves nothing."
)


def read(data: Path, split: str) -> Labelled:
    """A split (train, valid or test) in file order; raises StudyError where it is not there."""
    names = [*FIELDS, "label"]
    table = open_parquet(data / FOLDER / f"{split}.parquet", names).read(names)
    return Labelled({name: table[name].to_numpy() for name in FIELDS}, table["label"].to_numpy())
