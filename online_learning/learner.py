"""The online model: rows in the sparse table, a small network beside them, one gradient step per batch."""

import io
import math
from collections.abc import Iterable

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.batches import Batch
from online_learning.models.adam import Adam
from online_learning.models.dense_features import PRIOR_LOGIT, dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import Parameters, check
from online_learning.models.ranking import RankingModel, Undone, gradients
from online_learning.models.registry import new_network, new_scorer
from online_learning.models.retriever import of_ranking, of_retrieval, together
from online_learning.models.scorers.two_tower import tower_space
from online_learning.models.values import VALUES, value_columns
from online_learning.settings import LearningSettings
from online_learning.table.settings import InitializerSettings, OptimizerSettings, TableSettings
from online_learning.table.snapshot import TableSnapshot
from online_learning.table.table import Table
from online_learning.two_tower_learner import TwoTowerLearner
from online_learning.value_scale import ScaleState, ValueScale
from online_learning.watching.learning_health import LearningHealth, sound_rows

TABLE = "sparse"
"""The one table of all fields, and so the name of its frames and checkpoints."""

# The network takes a step when this many examples have added their gradients. Adam's step is as long for one example as
# for a hundred, and what trickles in alone (clicks) would outweigh what comes together (a window's negatives).
_EXAMPLES_PER_STEP = 64


def table_settings(settings: LearningSettings) -> TableSettings:
    """The sparse table of the settings: rows are `[linear weight | dim factors]`, the weight starting at 0.

    Raises ValueError where its policies name a field that the model does not have.
    """
    table = TableSettings(
        name=TABLE,
        dim=1 + settings.model.dim,
        optimizer=OptimizerSettings(
            kind=settings.sparse_optimizer,
            learning_rate=settings.sparse_learning_rate,
            initial_accumulator=settings.sparse_initial_accumulator,
        ),
        initializer=InitializerSettings(scale=settings.model.initial_scale, zero_columns=1),
        # A batch has too few rows to be shared out; the second core belongs to the other processes.
        threads=1,
    )
    names = FieldEncoder(settings.model).space_names()
    return settings.rows.in_table(table, {name: (space, tower_space(space)) for space, name in names.items()})


class OnlineLearner:
    """Predicts and learns by batches of B rows over F fields for T tasks."""

    name = "online"

    def __init__(self, settings: LearningSettings) -> None:
        tasks, self._values = len(settings.tasks), list(value_columns(settings.tasks))
        fields, dense = FieldEncoder(settings.model).fields, len(dense_names(settings.model))
        self._settings = settings
        self._width = 1 + settings.model.dim
        self.table = Table(table_settings(settings), settings.trainer.seed)
        self.model = new_network(settings.model, tasks, fields, dense, settings.trainer.seed)
        _set_prior(self.model, settings)
        # Looking through the modules for them takes as long as adding up their gradients.
        self._parameters = list(self.model.parameters())
        self._adam = Adam(self._parameters, self.model.learning_rates(settings.model.dense_learning_rate))
        self._pending = 0
        self.towers = TwoTowerLearner(settings) if settings.retrieval.name == "two_tower" else None
        self.health = LearningHealth()
        self._scale = ValueScale(len(self._values))
        self._scorer = new_scorer(settings.model, tasks, self._values)
        self._load_scorer()

    def predict(self, batch: Batch) -> NDArray[np.float32]:
        """Predictions f32 [B, T] as serving would give them: a key without a row counts as missing."""
        return self._scorer.score(self._pooled(batch, self.table.find(batch.side.keys)), batch.dense)

    def learn(
        self,
        batch: Batch,
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        now_ms: int,
        version: int,
        offsets: NDArray[np.float32] | None = None,
        revised: NDArray[np.float32] | None = None,
        undone: Undone | None = None,
    ) -> NDArray[np.bool_]:
        """Learns labels f32 [B, T] (NaN: none; of a value task the value) with weights f32 [B, T]; which examples it
        learned, [B].

        Rows take their step at once, the network when enough examples have come. `version` stamps the rows that change,
        `now_ms` is noted as their last sighting. An example whose gradient is not finite is refused: it reaches neither
        a row nor the network. `offsets` f32 [B, T]: see `gradients`. `revised` f32 [B, T]: the value that was learned
        before in place of a label (NaN: none); `undone`: the same of binary tasks, which is taken back.
        """
        if self._values:
            labels = self._with_scores(batch, labels, revised)
        if undone is not None and not undone.weights.any():
            undone = None
        return self._learn(batch, labels, weights, now_ms, version, offsets, undone)

    def _learn(
        self,
        batch: Batch,
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        now_ms: int,
        version: int,
        offsets: NDArray[np.float32] | None,
        undone: Undone | None,
        *,
        seen: bool = False,
    ) -> NDArray[np.bool_]:
        """As `learn`, of labels as the network is to say them; `seen`: these keys are noted as seen already."""
        side, table = batch.side, self.table
        slots = table.find(side.keys) if seen else table.find_or_insert(side.keys, side.spaces, now_ms, version)
        waiting = self._take_gradients()
        pooled = self._pooled(batch, slots)
        loss, by_field = gradients(self.model, pooled, batch.dense, labels, weights, offsets, self._values, undone)
        sound = sound_rows(loss, by_field, batch.dense)
        if not sound.all():
            # The network's gradients are sums over the batch: they are made anew from the others.
            self._take_gradients()
            self._add_gradients(waiting)
            good = np.flatnonzero(sound)
            if len(good):
                rest = None if offsets is None else offsets[good]
                back = None if undone is None else undone.take(good)
                part = (batch.take(good), labels[good], weights[good])
                sound[good] = self._learn(*part, now_ms, version, rest, back, seen=True)
            return sound
        self._add_gradients(waiting)
        by_bag = by_field.reshape(-1, self._width)
        touched = self.table.apply_pooled_gradients(slots, side.offsets, by_bag, version, "mean")
        self._pending += batch.rows
        if self._pending >= _EXAMPLES_PER_STEP:
            self._step(touched)
        return sound

    def dense_parameters(self) -> Parameters:
        """Copies of the network's parameters by name, of the value tasks' scale and of the towers' where there are
        some."""
        ranking = self.model.to_numpy()
        if self._values:
            ranking[VALUES] = self._scale.parameters.copy()
        return together(ranking, {} if self.towers is None else self.towers.dense_parameters())

    # --- keeping ---------------------------------------------------------------------------------------------------

    def optimizer_state(self) -> bytes:
        """Adam's moments, the gradients that wait for its next step, and what is known of the values' scale."""
        out = io.BytesIO()
        state = {
            "adam": self._adam.state_dict(),
            "pending": self._pending,
            "gradients": [parameter.grad for parameter in self._parameters],
        }
        if self._values:
            state["values"] = msgspec.to_builtins(self._scale.state())
        torch.save(state, out)
        return out.getvalue()

    def restore(
        self, snapshot: TableSnapshot, dense: Parameters, optimizer_state: bytes, towers_state: bytes = b""
    ) -> None:
        """Takes over rows, network and moments; raises ValueError where they are of another model."""
        self.table = Table.restore(table_settings(self._settings), snapshot)
        ranking = of_ranking(dense)
        check(ranking, self._scorer.shapes)
        self.model.from_numpy({name: value for name, value in ranking.items() if name != VALUES})
        if self.towers is not None:
            self.towers.restore(of_retrieval(dense), towers_state)
        state = torch.load(io.BytesIO(optimizer_state), weights_only=True)
        self._adam.load_state_dict(state["adam"])
        self._pending = state["pending"]
        if self._values:
            self._scale.restore(msgspec.convert(state["values"], ScaleState))
        for parameter, gradient in zip(self._parameters, state["gradients"], strict=True):
            parameter.grad = gradient
        self._load_scorer()

    # --- inner -----------------------------------------------------------------------------------------------------

    def _step(self, touched: NDArray[np.int64]) -> None:
        """The network's step by the mean of what waits; one that is not finite as a whole is not taken.

        `touched` are slots of rows that have just taken theirs, whose size may be wanted.
        """
        waiting = []
        for parameter in self._parameters:
            assert parameter.grad is not None
            parameter.grad /= self._pending
            waiting.append(parameter.grad)
        norm = _flat(waiting).norm().item()
        if not math.isfinite(norm):
            self.health.refused_steps += 1
        elif self.health.wants_step():
            before = _flat(self._parameters)
            self._adam.step()
            self.health.stepped(norm, (_flat(self._parameters) - before).norm().item())
            self.health.touched(self.table.gather(touched))
        else:
            self._adam.step()
        self._adam.zero_grad(set_to_none=False)
        self._pending = 0

    def _with_scores(
        self, batch: Batch, labels: NDArray[np.float32], revised: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """The labels with values as the network is to say them, [B, T], their scale having heard of them.

        A revised value was learned as another one before. It has to undo that, so it moves the output from where it is
        now by what lies between the two: both slopes together are then the slope of the value alone.
        """
        values, columns = labels[:, self._values], self._values
        if np.isnan(values).all():
            return labels
        before = np.full_like(values, np.nan) if revised is None else revised[:, columns]
        again = ~np.isnan(before)
        said = self._scorer.logits(self._pooled(batch, self.table.find(batch.side.keys)), batch.dense)[:, columns]
        self._scale.add(np.where(again, np.nan, values), said)
        scores = self._scale.scores(values)
        scores = np.where(again, said + scores - self._scale.scores(before), scores)
        labels = labels.copy()
        labels[:, columns] = scores
        return labels

    def _take_gradients(self) -> list[torch.Tensor | None]:
        """What waits for the network's next step, which from now on has nothing waiting."""
        waiting = []
        for parameter in self._parameters:
            waiting.append(parameter.grad)
            parameter.grad = None
        return waiting

    def _add_gradients(self, waiting: list[torch.Tensor | None]) -> None:
        """Adds what was taken to what has come since."""
        for parameter, gradient in zip(self._parameters, waiting, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)

    def _pooled(self, batch: Batch, slots: NDArray[np.int64]) -> NDArray[np.float32]:
        pooled = self.table.gather_pooled(slots, batch.side.offsets, "mean")
        return pooled.reshape(batch.rows, batch.side.fields, self._width)

    def _load_scorer(self) -> None:
        # The arrays share memory with the parameters, which Adam changes in place: the scorer is always up to date.
        parameters = {name: value.detach().numpy() for name, value in self.model.named().items()}
        if self._values:
            parameters[VALUES] = self._scale.parameters
        self._scorer.load(parameters)


def _flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """A copy of all of them in one row."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


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
