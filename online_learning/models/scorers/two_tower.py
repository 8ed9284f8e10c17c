"""Two towers in numpy: a vector of the user and one of the item, whose dot product says how well they go together.

Covington et al. 2016 and Yi et al. 2019 (https://doi.org/10.1145/3298689.3346996). A tower's vector is the sum of the
factors of its fields, and with hidden layers what they make of all of them is added. An item has a weight of its own
besides (how often it is taken at all), which multiplies 1 in the query:

    item  = [linear(I), v]             f32 [1 + dim]
    query = [1, u / temperature]       f32 [1 + dim]

The rows are the towers' own: in the same table and so in the same checkpoints, frames and replicas as those of the
ranking model, under other keys.
"""

import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import FieldEncoder, Side
from online_learning.models.parameters import Parameters, Shapes, check, layer_shapes
from online_learning.models.scorer import network, weights_and_biases
from online_learning.settings import LearningSettings

# xxh3 of "two_tower". One to one: the towers' keys collide among themselves as seldom as those they are made of, and
# with the others' no more often than two strings do.
_OTHER_KEYS = np.uint64(0xCA08_4B5F_E7F8_6088)
_OTHER_SPACES = 0x8000

PREFIX = "retrieval/"
"""How the names of the towers' dense parameters begin, in checkpoints, bundles and frames."""
TOWERS = ("user", "item")


def tower_keys(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The keys u64 [n] of the towers' rows for the same values."""
    # Key 0 is reserved, as in `hash_key`.
    return np.asarray(np.maximum(keys ^ _OTHER_KEYS, np.uint64(1)))


def tower_space(space: int) -> int:
    """The key space of the towers' rows for the values of one."""
    return space | _OTHER_SPACES


def tower_side(side: Side) -> Side:
    """The same bags under the towers' keys and key spaces."""
    return Side(tower_keys(side.keys), side.spaces | np.uint16(_OTHER_SPACES), side.offsets, side.rows, side.fields)


def tower_shapes(settings: LearningSettings) -> Shapes:
    """`TOWER.layer.K.weight` and `TOWER.layer.K.bias` of both towers, the last with `dim` outputs; none without hidden
    layers."""
    hidden, dim = settings.retrieval.hidden, settings.model.dim
    if not hidden:
        return {}
    encoder = FieldEncoder(settings.model)
    fields = dict(zip(TOWERS, (len(encoder.user_fields), len(encoder.item_fields)), strict=True))
    return {
        f"{tower}.{name}": shape
        for tower, count in fields.items()
        for name, shape in layer_shapes(count * dim, hidden, dim).items()
    }


class TwoTowerScorer:
    """Vectors of pooled tower rows."""

    def __init__(self, settings: LearningSettings) -> None:
        self.shapes = tower_shapes(settings)
        self._settings = settings.retrieval
        self._layers: dict[str, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {}
        self.load({name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()})

    def load(self, parameters: Parameters) -> None:
        """Takes over the towers' parameters by their names in `shapes` (not copied); raises ShapeMismatch."""
        check(parameters, self.shapes)
        for tower in TOWERS:
            own = {n.removeprefix(f"{tower}."): a for n, a in parameters.items() if n.startswith(f"{tower}.")}
            self._layers[tower] = weights_and_biases(own, "layer")

    def item_vectors(self, item_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors f32 [n, 1 + dim] of pooled item rows f32 [n, Fi, 1 + dim]."""
        linear = item_rows[:, :, 0].sum(axis=1, keepdims=True)
        return np.concatenate([linear, self._tower("item", item_rows)], axis=1)

    def query(self, user_rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """The vector f32 [1 + dim] of pooled user rows f32 [1, Fu, 1 + dim]."""
        vector = self._tower("user", user_rows)[0] / np.float32(self._settings.temperature)
        return np.concatenate([np.ones(1, np.float32), vector])

    def _tower(self, tower: str, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        factors = rows[:, :, 1:]
        vector = factors.sum(axis=1)
        if self._layers[tower]:
            vector = vector + network(self._layers[tower], factors.reshape(len(rows), -1))
        if self._settings.normalize:
            # As torch's normalize: a vector of nothing stays one.
            vector = vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)
        return np.asarray(vector, dtype=np.float32)
