"""The online model: rows in the sparse table, a small network beside them, one gradient step per batch."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.batches import Batch
from online_learning.models.dense_features import PRIOR_LOGIT, dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.ranking import RankingModel, gradients
from online_learning.models.registry import new_network, new_scorer
from online_learning.settings import LearningSettings
from online_learning.table.settings import InitializerSettings, OptimizerKind, OptimizerSettings, TableSettings
from online_learning.table.snapshot import TableSnapshot
from online_learning.table.table import Table

TABLE = "sparse"
"""The one table of all fields, and so the name of its frames and checkpoints."""

# The network takes a step when this many examples have added their gradients. Adam's step is as long for one example as
# for a hundred, and what trickles in alone (clicks) would outweigh what comes together (a window's negatives).
_EXAMPLES_PER_STEP = 64


def table_settings(settings: LearningSettings) -> TableSettings:
    """The sparse table of the settings: rows are `[linear weight | dim factors]`, the weight starting at 0."""
    return TableSettings(
        name=TABLE,
        dim=1 + settings.model.dim,
        optimizer=OptimizerSettings(
            kind=OptimizerKind.ADAGRAD,
            learning_rate=settings.sparse_learning_rate,
            initial_accumulator=settings.sparse_initial_accumulator,
        ),
        initializer=InitializerSettings(scale=settings.model.initial_scale, zero_columns=1),
        # A batch has too few rows to be shared out; the second core belongs to the other processes.
        threads=1,
    )


class OnlineLearner:
    """Predicts and learns by batches of B rows over F fields for T tasks."""

    name = "online"

    def __init__(self, settings: LearningSettings) -> None:
        tasks = len(settings.tasks)
        fields, dense = FieldEncoder(settings.model).fields, len(dense_names(settings.model))
        self._settings = settings
        self._width = 1 + settings.model.dim
        self.table = Table(table_settings(settings), settings.trainer.seed)
        self.model = new_network(settings.model, tasks, fields, dense, settings.trainer.seed)
        _set_prior(self.model, settings)
        self._adam = torch.optim.Adam(self.model.parameters(), settings.model.dense_learning_rate, foreach=True)
        self._pending = 0
        self._scorer = new_scorer(settings.model, tasks)
        self._load_scorer()

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Probabilities f32 [B, T] as serving would give them: a key without a row counts as missing."""
        return self._scorer.score(self._pooled(batch, self.table.find(batch.side.keys)), batch.dense)

    def learn(
        self, batch: Batch, labels: NDArray[np.float32], weights: NDArray[np.float32], now_ms: int, version: int
    ) -> float:
        """Learns labels f32 [B, T] (NaN: none) with weights f32 [B, T]; the loss per row.

        Rows take their step at once, the network when enough examples have come. `version` stamps the rows that change,
        `now_ms` is noted as their last sighting.
        """
        side = batch.side
        slots = self.table.find_or_insert(side.keys, side.spaces, now_ms, version)
        loss, by_field = gradients(self.model, self._pooled(batch, slots), batch.dense, labels, weights)
        by_key = self.table.spread_gradients(slots, side.offsets, by_field.reshape(-1, self._width), "mean")
        self.table.apply_gradients(slots, by_key, now_ms, version)
        self._pending += batch.rows
        if self._pending >= _EXAMPLES_PER_STEP:
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                parameter.grad /= self._pending
            self._adam.step()
            self._adam.zero_grad(set_to_none=False)
            self._pending = 0
        return loss / batch.rows

    def dense_parameters(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the network's parameters by name."""
        return self.model.to_numpy()

    # --- keeping ---------------------------------------------------------------------------------------------------

    def optimizer_state(self) -> bytes:
        """Adam's moments, and the gradients that wait for its next step."""
        out = io.BytesIO()
        waiting = [parameter.grad for parameter in self.model.parameters()]
        torch.save({"adam": self._adam.state_dict(), "pending": self._pending, "gradients": waiting}, out)
        return out.getvalue()

    def restore(self, snapshot: TableSnapshot, dense: Mapping[str, NDArray[Any]], optimizer_state: bytes) -> None:
        """Takes over rows, network and moments; raises ValueError where they are of another model."""
        self.table = Table.restore(table_settings(self._settings), snapshot)
        self.model.from_numpy({name: np.asarray(value, dtype=np.float32) for name, value in dense.items()})
        state = torch.load(io.BytesIO(optimizer_state), weights_only=True)
        self._adam.load_state_dict(state["adam"])
        self._pending = state["pending"]
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient
        self._load_scorer()

    # --- inner -----------------------------------------------------------------------------------------------------

    def _pooled(self, batch: Batch, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        pooled = self.table.gather_pooled(slots, batch.side.offsets, "mean")
        return pooled.reshape(batch.rows, batch.side.fields, self._width)

    def _load_scorer(self) -> None:
        # The arrays share memory with the parameters, which Adam changes in place: the scorer is always up to date.
        self._scorer.load({name: value.detach().numpy() for name, value in self.model.named().items()})


def _set_prior(model: RankingModel, settings: LearningSettings) -> None:
    """Lets a new model say what is known before anything is learned, instead of nothing.

    For a task whose negatives are the items shown: an item's own rate counts in full (its feature is the logit of that
    rate less the prior's), and a candidate whose attributes are those of all recent items has e times the odds.
    """
    names = dense_names(settings.model)
    with torch.no_grad():
        for t, task in enumerate(settings.tasks):
            if not task.shown_is_negative:
                continue
            model.bias[t] = PRIOR_LOGIT
            model.dense_linear[t, names.index("item_positive_logit_1d")] = 1.0
            for field in settings.model.fields:
                if field.source == "recent" and field.attribute and f"{field.name}_share" in names:
                    model.dense_linear[t, names.index(f"{field.name}_share")] = 1.0
