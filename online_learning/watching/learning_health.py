"""The health of learning itself: sizes of gradients, steps and embeddings, and the gradients that were refused."""

import math
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

GRADIENT_LIMIT: Final = 1e15
"""An example's gradient of a norm beyond this counts as not finite: the sums of squares that the optimizers keep in f32
would soon not be."""
_STEPS: Final = 32
_EVERY: Final = 8


def sound_rows(loss: float, gradients: NDArray[np.float32], dense: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows may be learned from, [B], by gradients f32 [B, F, W] and features f32 [B, D].

    The network's own gradients are sums over rows of a feature times a gradient, so no feature may be beyond the limit.

    Where the loss is not finite though all gradients are, nobody knows whose it is, and none may.
    """
    by_row = gradients.reshape(len(gradients), -1)
    # One pass without a copy; the squares of what is beyond f32 are infinite, and so beyond the limit.
    squares = np.maximum(np.einsum("bi,bi->b", by_row, by_row), np.einsum("bi,bi->b", dense, dense))
    sound: NDArray[np.bool_] = squares <= GRADIENT_LIMIT**2
    if sound.all() and not math.isfinite(loss):
        sound[:] = False
    return sound


class LearningHealth:
    """Sizes at every eighth step of the network, over the last 32 of those, since this process started.

    `refused_steps`: steps of the network that were not taken because their gradients were not finite together.
    """

    def __init__(self) -> None:
        self.refused_steps = 0
        self._turn = 0
        self._gradients: deque[float] = deque(maxlen=_STEPS)
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._embeddings: deque[NDArray[np.float32]] = deque(maxlen=_STEPS)

    def wants_step(self) -> bool:
        """Whether the sizes of this step of the network are wanted; to be asked at each: it counts them."""
        self._turn += 1
        return self._turn % _EVERY == 1

    def stepped(self, gradient_norm: float, step_norm: float) -> None:
        """Notes the L2 norms of the network's gradient and of the step that it took."""
        self._gradients.append(gradient_norm)
        self._steps.append(step_norm)

    def touched(self, rows: NDArray[np.float32]) -> None:
        """Notes rows f32 [n, 1 + dim] of the table after their step."""
        self._embeddings.append(np.linalg.norm(rows[:, 1:], axis=1))

    def figures(self) -> dict[str, float]:
        """`gradient_norm`, `step_norm` (means), `embedding_norm_mean` and `embedding_norm_p99`; none before a step."""
        figures: dict[str, float] = {}
        if self._gradients:
            figures["gradient_norm"] = sum(self._gradients) / len(self._gradients)
            figures["step_norm"] = sum(self._steps) / len(self._steps)
        norms = np.concatenate(self._embeddings) if self._embeddings else np.empty(0, dtype=np.float32)
        if len(norms):
            figures["embedding_norm_mean"] = float(norms.mean())
            figures["embedding_norm_p99"] = float(np.quantile(norms, 0.99))
        return figures
