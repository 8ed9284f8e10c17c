"""Scores candidates from what the counts tell of them and how their embeddings meet those of the session."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

VECTORS = 3
"""Of a session: its last click, all its clicks, and what its reader clicked before."""


class Inputs(NamedTuple):
    """features [B, C, F], sessions [B, VECTORS, D], articles [B, C, 1 + D] f32; absent [B, C] bool."""

    features: Tensor
    sessions: Tensor
    articles: Tensor
    absent: Tensor


class Ranker(nn.Module):
    """A network over each candidate's features and dot products, beside the dot products themselves."""

    def __init__(self, features: int, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            # Two parts of one layer: the features need no gradient, which is most of the way back.
            self.of_features = nn.Linear(features, hidden[0])
            self.of_embeddings = nn.Linear(VECTORS + 1, hidden[0], bias=False)
            layers: list[nn.Module] = [nn.ReLU()]
            for wide, narrow in pairwise(hidden):
                layers += [nn.Linear(wide, narrow), nn.ReLU()]
            self.over = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))
            self.meeting = nn.Parameter(torch.ones(VECTORS))

    def forward(self, inputs: Inputs) -> Tensor:
        """Scores [B, C]; -inf where a candidate is absent."""
        dots = inputs.articles[..., 1:] @ inputs.sessions.transpose(1, 2)
        own = inputs.articles[..., :1]
        first = self.of_features(inputs.features) + self.of_embeddings(torch.cat((dots, own), dim=-1))
        scores = self.over(first).squeeze(-1) + dots @ self.meeting + own.squeeze(-1)
        return torch.where(inputs.absent, -torch.inf, scores)
