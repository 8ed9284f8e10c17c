"""Learns the two towers from positives: each is told from the others of its batch and from items of the stream."""

import io
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.models.adam import Adam
from online_learning.models.fields import Side
from online_learning.models.networks.two_tower import TwoTower, sampled_softmax
from online_learning.models.parameters import check
from online_learning.models.scorers.two_tower import tower_shapes, tower_side
from online_learning.sampling.candidates import Candidates
from online_learning.settings import LearningSettings
from online_learning.table.table import Table
from online_learning.watching.learning_health import GRADIENT_LIMIT

# As of the ranking model: Adam's step is as long for one positive as for a hundred.
_POSITIVES_PER_STEP: Final = 64
_LOSSES: Final = 64


class TwoTowerLearner:
    """The towers' network and its optimizer; the rows are in the table that is handed in.

    `refused`: batches that were passed over since this process started.
    """

    def __init__(self, settings: LearningSettings) -> None:
        self._settings = settings.retrieval
        self._width = 1 + settings.model.dim
        self._shapes = tower_shapes(settings)
        self.model = TwoTower(settings, settings.trainer.seed)
        self._adam: Adam | None = None
        if self._shapes:
            self._adam = Adam(self.model.parameters(), settings.retrieval.dense_learning_rate)
        self._pending = 0
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self.refused = 0

    @property
    def loss(self) -> float:
        """The mean loss (nats) of the newest batches, each before it was learned; NaN before any."""
        return sum(self._losses) / len(self._losses) if self._losses else float("nan")

    def learn(self, table: Table, users: Side, candidates: Candidates, now_ms: int, version: int) -> float:
        """One step of the rows; the mean loss (nats) of the positives before it.

        `users`: the user and context fields of the B positives, under the ranking model's keys, as the candidates'.
        A batch whose loss or gradient is not finite is passed over, and NaN is returned.
        """
        users, items = tower_side(users), tower_side(candidates.side)
        b = users.rows
        slots = table.find_or_insert(
            np.concatenate([users.keys, items.keys]), np.concatenate([users.spaces, items.spaces]), now_ms, version
        )
        user_slots, item_slots = slots[: len(users.keys)], slots[len(users.keys) :]
        user_rows = self._pooled(table, user_slots, users).requires_grad_(True)
        item_rows = self._pooled(table, item_slots, items).requires_grad_(True)
        waiting = [parameter.grad for parameter in self.model.parameters()]
        for parameter in self.model.parameters():
            parameter.grad = None
        scores = self.model.users(user_rows) @ self.model.items(item_rows).T
        losses = sampled_softmax(scores, torch.from_numpy(candidates.log_expected))
        losses.sum().backward()  # type: ignore[no-untyped-call]
        assert user_rows.grad is not None and item_rows.grad is not None
        by_user, by_item = user_rows.grad.numpy(), item_rows.grad.numpy()
        loss = losses.mean().item()
        if not np.isfinite(loss) or not all(np.square(one).sum() <= GRADIENT_LIMIT**2 for one in (by_user, by_item)):
            for parameter, gradient in zip(self.model.parameters(), waiting, strict=True):
                parameter.grad = gradient
            self.refused += 1
            return float("nan")
        offsets = np.concatenate([users.offsets, items.offsets[1:] + users.offsets[-1]])
        by_bag = np.concatenate([one.reshape(-1, self._width) for one in (by_user, by_item)])
        rate = self._settings.learning_rate
        table.apply_pooled_gradients(slots, offsets, by_bag, version, "mean", learning_rate=rate)
        self._step(b, waiting)
        self._losses.append(loss)
        return loss

    def dense_parameters(self) -> dict[str, NDArray[np.float32]]:
        """Copies of the towers' parameters by name."""
        return {name: value.detach().numpy().copy() for name, value in self.model.named().items()}

    # --- keeping ---------------------------------------------------------------------------------------------------

    def optimizer_state(self) -> bytes:
        """Adam's moments and the gradients that wait; empty where there are no layers."""
        if self._adam is None:
            return b""
        out = io.BytesIO()
        waiting = [parameter.grad for parameter in self.model.parameters()]
        torch.save({"adam": self._adam.state_dict(), "pending": self._pending, "gradients": waiting}, out)
        return out.getvalue()

    def restore(self, dense: Mapping[str, NDArray[Any]], optimizer_state: bytes) -> None:
        """Takes over the towers' parameters and moments; raises ShapeMismatch where they are of others."""
        check(dense, self._shapes)
        with torch.no_grad():
            for name, value in self.model.named().items():
                value.copy_(torch.from_numpy(np.array(dense[name], dtype=np.float32)))
        if self._adam is None or not optimizer_state:
            return
        state = torch.load(io.BytesIO(optimizer_state), weights_only=True)
        self._adam.load_state_dict(state["adam"])
        self._pending = state["pending"]
        for parameter, gradient in zip(self.model.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient

    # --- inner -----------------------------------------------------------------------------------------------------

    def _pooled(self, table: Table, slots: NDArray[np.int64], side: Side) -> torch.Tensor:
        pooled = table.gather_pooled(slots, side.offsets, "mean")
        return torch.from_numpy(pooled.reshape(side.rows, side.fields, self._width))

    def _step(self, positives: int, waiting: Sequence[torch.Tensor | None]) -> None:
        """Adds what waited to what has come, and lets the network take its step when there is enough."""
        if self._adam is None:
            return
        parameters = list(self.model.parameters())
        for parameter, gradient in zip(parameters, waiting, strict=True):
            if gradient is not None:
                assert parameter.grad is not None
                parameter.grad += gradient
        self._pending += positives
        if self._pending < _POSITIVES_PER_STEP:
            return
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= self._pending
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)
        self._pending = 0
