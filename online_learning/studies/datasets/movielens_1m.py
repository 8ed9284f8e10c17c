"""MovieLens 1M in the leave-one-out split of He et al. 2017: a user's last rating is asked for among 99 other items."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.studies.datasets.parquet import open_parquet
from online_learning.studies.study import StudyError

FOLDER: Final = "ml-1m_ncf"
_NEGATIVES: Final = 99


class LeaveOneOut(NamedTuple):
    """user, item i64 [N]: what is learned, in no order of time; asked i64 [U, 1 + 99]: per user the item that was left
    out, then items that the user has not rated."""

    user: NDArray[np.int64]
    item: NDArray[np.int64]
    asked: NDArray[np.int64]
    items: int

    @property
    def users(self) -> int:
        return len(self.asked)

    def first_users(self, users: int) -> "LeaveOneOut":
        """What the first users have rated and are asked for."""
        mine = self.user < users
        return LeaveOneOut(self.user[mine], self.item[mine], self.asked[:users], self.items)

    def left_out_once_more(self, seed: int) -> "LeaveOneOut":
        """The split to choose settings by: of what is learned, one item a user is left out at random, and asked for
        among items that the user has not rated there. What the split itself asks for plays no part."""
        random = np.random.default_rng(seed)
        order = np.lexsort((random.random(len(self.user)), self.user))
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = self.user[order][1:] != self.user[order][:-1]
        held = order[first]
        rated = np.zeros((self.users, self.items), dtype=np.bool_)
        rated[self.user, self.item] = True
        asked = np.empty_like(self.asked)
        asked[self.user[held], 0] = self.item[held]
        for user in range(self.users):
            asked[user, 1:] = random.choice(np.flatnonzero(~rated[user]), _NEGATIVES, replace=False)
        kept = np.ones(len(self.user), dtype=np.bool_)
        kept[held] = False
        return LeaveOneOut(self.user[kept], self.item[kept], asked, self.items)


def read(data: Path) -> LeaveOneOut:
    """The split under `data`/ml-1m_ncf; raises StudyError where it is not what it must be."""
    folder, pair, asks = data / FOLDER, ["user", "item"], ["user", "item", "negatives"]
    train = open_parquet(folder / "train.parquet", pair).read(pair)
    test = open_parquet(folder / "test_negatives.parquet", asks).read(asks)
    user, item = (np.asarray(train.column(name), dtype=np.int64) for name in ("user", "item"))
    negatives = np.array(test.column("negatives").to_pylist(), dtype=np.int64)
    asked = np.concatenate([np.asarray(test.column("item"), dtype=np.int64)[:, None], negatives], axis=1)
    users = np.asarray(test.column("user"))
    if not (users == np.arange(len(users))).all() or asked.shape[1] != 1 + _NEGATIVES or user.max() >= len(users):
        raise StudyError(f"{folder}: must ask every user of train once, for one item and {_NEGATIVES} others")
    return LeaveOneOut(user, item, asked, int(max(item.max(), asked.max())) + 1)
