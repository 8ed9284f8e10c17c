"""Draws the items that positives are told from, for the ranking model and for the towers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_learning.batches import Batch, Batcher
from online_learning.models.dense_features import PRIOR_LOGIT
from online_learning.models.fields import FieldEncoder, Side
from online_learning.sampling.candidates import Candidates
from online_learning.sampling.item_stream import ItemStream
from online_learning.settings import LearningSettings
from streams.records import Example


class Sampled(NamedTuple):
    """Negatives and what the loss must know of them: `batch` of N rows and their labels f32 [N, T]; `offsets` f32
    [B + N, T] to the logits and `shares` f32 [B + N, T] of the weights, for the positives' batch of B rows and these
    behind it."""

    batch: Batch
    labels: NDArray[np.float32]
    offsets: NDArray[np.float32]
    shares: NDArray[np.float32]


class Negatives:
    """The items of the newest positives, and draws from them.

    **The ranking model.** An organic positive was not shown among others, so it comes without a negative, and a model
    that learns it alone learns that everything is liked. It gets k items drawn with q, the share of each among the
    newest positives. Told from those, a logit settles at ln p(i | user) - ln q(i) - ln k (noise-contrastive estimation,
    Gutmann, Hyvaerinen 2010; Mnih, Teh 2012): drawing with q has taken ln q off already. Impressions teach the logit of
    being taken once shown. The two agree where an item comes before an organic user's eyes as often as q says: then
    p / q is how much more often than others this user takes it, and the prior's odds times that are the odds of a
    click. So the loss of an organic positive and its negatives sees

        logit - (prior logit + ln k)

    and the same rows serve both: an item that is taken as often as its being popular explains stays at the prior.
    Together they weigh as one example: with a weight of 1 each, what was drawn drowns what the other tasks have to say
    of the same rows.

    **The towers** learn by a softmax over candidates that were drawn with q, and take ln q off themselves.
    """

    def __init__(self, settings: LearningSettings, encoder: FieldEncoder, batcher: Batcher) -> None:
        self._settings, self._encoder, self._batcher = settings, encoder, batcher
        self._shown_is_negative = np.array([task.shown_is_negative for task in settings.tasks], dtype=np.bool_)
        self.items = ItemStream(settings.negatives.window, settings.trainer.seed)

    def of_organic(self, examples: Sequence[Example], batch: Batch, labels: NDArray[np.float32]) -> Sampled | None:
        """Negatives for the organic ones of B examples, `batch` their rows, with labels f32 [B, T]; None where none is
        to be drawn."""
        k = self._settings.negatives.per_positive
        organic = np.array([example.organic for example in examples])
        alone = organic[:, None] & self._shown_is_negative & (labels == 1.0)
        rows = np.flatnonzero(alone.any(axis=1))
        if not k or not len(rows) or not len(self.items):
            return None
        told = np.where(np.repeat(alone[rows], k, axis=0), 0.0, np.nan).astype(np.float32)
        shift = np.float32(-PRIOR_LOGIT - np.log(k))
        concerned = np.concatenate([alone, ~np.isnan(told)]).astype(np.float32)
        shares = 1.0 - concerned * np.float32(k / (1 + k))
        drawn = self._batcher.with_items(batch.take(np.repeat(rows, k)), self.items.draw(k * len(rows)))
        return Sampled(drawn, told, shift * concerned, shares)

    def of_towers(self, items: Side, names: Sequence[str], users: Sequence[str]) -> Candidates:
        """What B positives are told from: each other's items, and `retrieval.negatives` drawn ones.

        items: the item fields of the B positives; names and users: the item and the user of each.
        """
        drawn = self.items.draw(self._settings.retrieval.negatives)
        side = Side.of(map(self._encoder.item_bags, drawn), self._encoder.item_spaces)
        both = [*names, *drawn]
        return Candidates.of(items.followed_by(side), both, users, self.items.log_probabilities(both))
