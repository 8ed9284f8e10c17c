"""Two towers of ids in a table, learned from what users have rated, and asked for what was left out."""

from collections.abc import Callable
from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.retriever import new_retriever
from online_learning.sampling.candidates import Candidates
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings, RetrievalSettings
from online_learning.studies.datasets.movielens_1m import LeaveOneOut
from online_learning.table.settings import InitializerKind, InitializerSettings, OptimizerSettings, TableSettings
from online_learning.table.settings import OptimizerKind as Kind
from online_learning.table.table import Table
from online_learning.table.version import pack_version
from online_learning.two_tower_learner import TwoTowerLearner

FIELDS: Final = (
    FieldSettings(name="user", side="user", source="id"),
    FieldSettings(name="item", side="item", source="id"),
)


class Variant(Struct, frozen=True, kw_only=True):
    """How towers are learned. `drawn`: negatives drawn for a batch besides its own items; 0: all items are negatives,
    and the batch is all that `batch` users have rated. `log_q`: whether draws are corrected for how often they come.
    With all items, `decay` is the L2 of a row, to be compared with the sum of the losses of all ratings, and `rate`
    falls to 0 by the end; with drawn ones there is no L2, and the rate stays, as in the live trainer."""

    dim: int = 64
    optimizer: Kind = Kind.ADAGRAD
    epochs: int = 40
    rate: float = 0.005
    scale: float = 0.05
    decay: float = 6.0
    batch: int = 256
    drawn: int = 0
    log_q: bool = True


class Towers:
    """Rows of the users and items of a split in one table, under the keys by which serving looks them up."""

    def __init__(self, split: LeaveOneOut, variant: Variant, seed: int) -> None:
        self._split, self._variant = split, variant
        self.settings = LearningSettings(
            model=ModelSettings(dim=variant.dim, fields=FIELDS),
            retrieval=RetrievalSettings(name="two_tower", negatives=max(variant.drawn, 1), learning_rate=variant.rate),
        )
        self.table = Table(
            TableSettings(
                dim=1 + variant.dim,
                optimizer=OptimizerSettings(kind=variant.optimizer, learning_rate=variant.rate),
                initializer=InitializerSettings(kind=InitializerKind.NORMAL, scale=variant.scale, zero_columns=1),
                threads=1,
            ),
            seed,
        )
        encoder = FieldEncoder(self.settings.model)
        bags = [encoder.user_bags(str(user), None, [], "", None) for user in range(split.users)]
        self.users = Side.of(bags, encoder.user_spaces)
        self.items = encoder.encode_items(str(item) for item in range(split.items))
        self._retriever = new_retriever(self.settings)
        own = [self._retriever.side(side) for side in (self.users, self.items)]
        self._user_slots, self._item_slots = (
            self.table.find_or_insert(side.keys, side.spaces, 0, pack_version(1, 1)) for side in own
        )
        self._learner = TwoTowerLearner(self.settings)
        self._random = np.random.default_rng(seed)
        self._version = 1
        order = np.argsort(split.user, kind="stable")
        self._rated = split.item[order]
        self._first = np.searchsorted(split.user[order], np.arange(split.users + 1))

    def learn(self, each: Callable[[int], None] = lambda _: None) -> None:
        """All epochs; calls `each` after each with its number, from 1."""
        for epoch in range(self._variant.epochs):
            (self._drawn if self._variant.drawn else self._whole)(epoch)
            each(epoch + 1)

    def scores(self) -> NDArray[np.float32]:
        """f32 [U, 1 + 99] of the items that each user is asked about, as serving would have them."""
        rows = self.table.gather(self._item_slots).copy()
        vectors = self._retriever.item_vectors(rows[:, None])
        queries = np.stack([self._retriever.query(row[None, None], 0) for row in self.table.gather(self._user_slots)])
        return np.stack([vectors[asked] @ query for asked, query in zip(self._split.asked, queries, strict=True)])

    def _whole(self, epoch: int) -> None:
        """A pass over all users: the softmax over all items, the ratings of a user at once.

        For n ratings of a user the sum of their losses is n * ln sum(exp(s)) - sum of the s rated: its gradient by the
        scores s is n * softmax(s) - [rated], one row for all of them.
        """
        variant, split = self._variant, self._split
        blocks = np.array_split(self._random.permutation(split.users), -(-split.users // variant.batch))
        for number, block in enumerate(blocks):
            user, item = self.table.gather(self._user_slots[block]).copy(), self.table.gather(self._item_slots).copy()
            p, q, bias = user[:, 1:], item[:, 1:], item[:, 0]
            slope = p @ q.T + bias
            slope -= slope.max(axis=1, keepdims=True)
            np.exp(slope, out=slope)
            counts = self._first[block + 1] - self._first[block]
            slope *= (counts / slope.sum(axis=1))[:, None].astype(np.float32)
            rows = np.repeat(np.arange(len(block)), counts)
            slope[rows, np.concatenate([self._rated[self._first[u] : self._first[u + 1]] for u in block])] -= 1.0
            # Every item meets its decay as often in an epoch as every user.
            share = np.float32(len(block) / split.users)
            by_user, by_item = np.zeros_like(user), np.empty_like(item)
            by_user[:, 1:] = slope @ q + np.float32(variant.decay) * p
            by_item[:, 1:] = slope.T @ p + np.float32(variant.decay) * share * q
            by_item[:, 0] = slope.sum(axis=0)
            self._version += 1
            slots = np.concatenate([self._user_slots[block], self._item_slots])
            rate = variant.rate * (1.0 - (epoch + number / len(blocks)) / variant.epochs)
            grads = np.concatenate([by_user, by_item])
            self.table.apply_gradients(slots, grads, pack_version(1, self._version), learning_rate=rate)

    def _drawn(self, epoch: int) -> None:
        """A pass over all ratings in random order, by the learner of the live trainer."""
        variant, split = self._variant, self._split
        counts = np.bincount(split.item, minlength=split.items).astype(np.float64)
        log_q = np.log(np.maximum(counts, 1.0) / len(split.item)).astype(np.float32)
        order = self._random.permutation(len(split.item))
        for start in range(0, len(order), variant.batch):
            batch = order[start : start + variant.batch]
            drawn = split.item[self._random.integers(0, len(split.item), variant.drawn)]
            both = np.concatenate([split.item[batch], drawn])
            told = Candidates.of(
                self.items.take(both),
                both.tolist(),
                split.user[batch].tolist(),
                log_q[both] if variant.log_q else np.zeros(len(both), np.float32),
            )
            self._version += 1
            self._learner.learn(self.table, self.users.take(split.user[batch]), told, 0, pack_version(1, self._version))


def hit_rate_and_ndcg(scores: NDArray[np.floating], k: int = 10) -> tuple[float, float]:
    """HR@k and NDCG@k of the first column of scores [U, n]; ties count against it."""
    rank = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
    return float((rank < k).mean()), float(np.where(rank < k, 1.0 / np.log2(rank + 2.0), 0.0).mean())
