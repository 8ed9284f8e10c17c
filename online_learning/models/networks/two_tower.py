"""The towers in torch, and the loss that they learn by; see `scorers.two_tower` for the model."""

import torch
from torch import Tensor, nn

from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import layer_shapes
from online_learning.models.ranking import Layers
from online_learning.models.scorers.two_tower import TOWERS
from online_learning.settings import LearningSettings


class TwoTower(nn.Module):
    """Vectors of users and items from their pooled rows; W = 1 + dim."""

    def __init__(self, settings: LearningSettings, seed: int = 0) -> None:
        super().__init__()
        self._settings = settings.retrieval
        self.layers = nn.ModuleDict()
        if settings.retrieval.hidden:
            encoder, dim = FieldEncoder(settings.model), settings.model.dim
            for tower, fields in zip(TOWERS, (encoder.user_fields, encoder.item_fields), strict=True):
                shapes = layer_shapes(len(fields) * dim, settings.retrieval.hidden, dim)
                self.layers[tower] = Layers(shapes, seed)

    def users(self, rows: Tensor) -> Tensor:
        """Queries f32 [B, W] of pooled user rows f32 [B, Fu, W]."""
        vectors = self._tower("user", rows) / self._settings.temperature
        return torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1)

    def items(self, rows: Tensor) -> Tensor:
        """Vectors f32 [C, W] of pooled item rows f32 [C, Fi, W]."""
        return torch.cat([rows[:, :, 0].sum(dim=1, keepdim=True), self._tower("item", rows)], dim=1)

    def named(self) -> dict[str, nn.Parameter]:
        """The dense parameters by the names of `tower_shapes`."""
        layers = {tower: layers for tower, layers in self.layers.items() if isinstance(layers, Layers)}
        return {f"{tower}.{name}": value for tower, one in layers.items() for name, value in one.named().items()}

    def _tower(self, tower: str, rows: Tensor) -> Tensor:
        factors = rows[:, :, 1:]
        vectors: Tensor = factors.sum(dim=1)
        if tower in self.layers:
            vectors = vectors + self.layers[tower](factors.flatten(1))
        return nn.functional.normalize(vectors, dim=1) if self._settings.normalize else vectors


def sampled_softmax(scores: Tensor, log_expected: Tensor) -> Tensor:
    """Cross-entropy f32 [B] of each positive among C candidates that were drawn, not enumerated.

    scores f32 [B, C], the positives' own items in the first B columns; log_expected f32 [B, C]: see `Candidates`. Taken
    off the scores, it makes the sum over those drawn an unbiased estimate of the sum over all items (Bengio, Senecal
    2008), so that what is learned is how often an item is taken, and not how much oftener than others say. A positive's
    own item is no draw and keeps its score (Khrylchenko et al. 2025, "Correcting the LogQ Correction"): with ln q taken
    off it too (Yi et al. 2019, eq. 4) the often taken come out too high.
    """
    own = torch.arange(len(scores))
    return nn.functional.cross_entropy(scores - log_expected, own, reduction="none")
