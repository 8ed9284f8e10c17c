"""MovieLens 100K as rows of ids in time order: is the rating 4 or 5?"""

from pathlib import Path
from typing import Final

import numpy as np

from online_learning.studies.datasets.labelled import Labelled
from streams.datasets.movielens import NAME, open_ml_100k

FOLDER: Final = NAME
_LIKED: Final = 4


def read(data: Path, rows: int | None = None) -> Labelled:
    """The first `rows` ratings (all where None); raises DatasetMissing where they are not there."""
    users: list[str] = []
    items: list[str] = []
    liked: list[float] = []
    for event in open_ml_100k(data).events(0):
        if rows is not None and len(liked) >= rows:
            break
        users.append(event.user)
        items.append(event.item)
        liked.append(float((event.value or 0) >= _LIKED))
    ids = {name: np.unique(column, return_inverse=True)[1] for name, column in (("user", users), ("item", items))}
    return Labelled(ids, np.array(liked))
