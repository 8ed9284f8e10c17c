"""Embeddings of articles in a table: a row as what is clicked, and a row as what was clicked before."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from online_learning.studies.next_click.batch import Batch
from online_learning.studies.next_click.ranker import VECTORS, Inputs
from online_learning.studies.next_click.settings import NextClickSettings
from online_learning.table.table import Table

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
CLICKED, BEFORE = 0, 1
"""Key spaces, and the lowest bit of a key."""


class Rows(Protocol):
    """Where rows are read: the learner's table, or a replica's copy of it."""

    def rows(self, numbers: Ints, space: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Rows f32 [n, 1 + dim] of articles, zeros where there is none, and whether there is one [n]."""


class Taken(NamedTuple):
    """What a batch's inputs came from: slots of articles i64 [B * C]; pooled ones of sessions i64 [m], offsets."""

    articles: Ints
    pooled: Ints
    offsets: Ints


class Embeddings:
    """Rows by the articles' dense numbers, in one table of two key spaces."""

    def __init__(self, settings: NextClickSettings, seed: int) -> None:
        self.table = Table(settings.table(), seed)
        self._slots = np.full((1 << 12, 2), -1, np.int64)

    def rows(self, numbers: Ints, space: int) -> tuple[Floats, NDArray[np.bool_]]:
        """As they are now."""
        slots = self._find(numbers, space)
        return self.table.gather(slots).copy(), slots >= 0

    def inputs(self, batch: Batch, now_ms: int, version: int) -> tuple[Inputs, Taken]:
        """What the ranker takes of a batch, rows with gradients; unseen articles get their rows."""
        count = batch.filled
        width = int(batch.found[:count].max())
        absent = np.arange(width) >= batch.found[:count, None]
        bags = [bag for row in range(count) for bag in batch.bags(row)]
        offsets = np.zeros(len(bags) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, bags), np.int64, len(bags)), out=offsets[1:])
        clicked, before = batch.articles[:count, :width].reshape(-1), np.concatenate(bags)
        self._admit(clicked[~absent.reshape(-1)], CLICKED, now_ms, version)
        self._admit(before, BEFORE, now_ms, version)
        articles = np.where(absent.reshape(-1), -1, self._find(clicked, CLICKED))
        pooled = self._find(before, BEFORE)
        # Copies, as the table's own buffers are used again by its next call.
        of_articles = torch.from_numpy(self.table.gather(articles).reshape(count, width, -1).copy()).requires_grad_()
        means = self.table.gather_pooled(pooled, offsets, "mean").reshape(count, VECTORS, -1)
        of_sessions = torch.from_numpy(means[..., 1:].copy()).requires_grad_()
        features = torch.from_numpy(batch.features[:count, :width])
        return Inputs(features, of_sessions, of_articles, torch.from_numpy(absent)), Taken(articles, pooled, offsets)

    def learn(self, taken: Taken, inputs: Inputs, version: int) -> None:
        """One step of the table on the gradients that a mean loss over the batch left in the inputs.

        They are summed over the batch, not averaged: a row is in few of its clicks.
        """
        of_sessions, of_articles = _gradient(inputs.sessions), _gradient(inputs.articles)
        count = len(of_sessions)
        pooled = np.zeros((len(taken.offsets) - 1, self.table.dim), np.float32)
        pooled[:, 1:] = of_sessions.reshape(len(pooled), -1)
        spread = self.table.spread_gradients(taken.pooled, taken.offsets, pooled, "mean")
        grads = np.concatenate([of_articles.reshape(-1, self.table.dim), spread]) * np.float32(count)
        self.table.apply_gradients(np.concatenate([taken.articles, taken.pooled]), grads, version)

    def _find(self, numbers: Ints, space: int) -> Ints:
        within = np.minimum(numbers, len(self._slots) - 1)
        return np.where(within == numbers, self._slots[within, space], -1)

    def _admit(self, numbers: Ints, space: int, now_ms: int, version: int) -> None:
        highest = int(numbers.max(initial=-1))
        while highest >= len(self._slots):
            self._slots = np.concatenate([self._slots, np.full_like(self._slots, -1)])
        new = numbers[self._slots[numbers, space] < 0]
        if len(new):
            new = np.unique(new)
            spaces = np.full(len(new), space, np.uint16)
            self._slots[new, space] = self.table.find_or_insert(keys_of(new, space), spaces, now_ms, version)


class EmbeddingsCopy:
    """What a replica has of a table: its rows by number and space, as of the last `sync`."""

    def __init__(self, dim: int) -> None:
        self._values = np.zeros((1 << 12, 2, dim), np.float32)
        self._present = np.zeros((1 << 12, 2), np.bool_)
        self._version = 0

    def rows(self, numbers: Ints, space: int) -> tuple[Floats, NDArray[np.bool_]]:
        """As they were at the last sync."""
        within = np.minimum(numbers, len(self._present) - 1)
        present = self._present[within, space] & (within == numbers)
        return np.where(present[:, None], self._values[within, space], np.float32(0)), present

    def sync(self, table: Table, version: int) -> None:
        """Takes what the table changed since the last sync, up to `version`, the newest there is."""
        changed = table.changed_since(self._version)
        numbers, spaces = (changed.keys.astype(np.int64) >> 1) - 1, changed.spaces.astype(np.int64)
        highest = int(numbers.max(initial=-1))
        while highest >= len(self._present):
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
            self._present = np.concatenate([self._present, np.zeros_like(self._present)])
        self._values[numbers, spaces], self._present[numbers, spaces] = changed.rows, True
        self._version = version


def keys_of(numbers: Ints, space: int) -> NDArray[np.uint64]:
    """Keys u64 [n] of dense numbers: unlike hashes they cannot collide; 0 is reserved."""
    return (2 * (numbers + 1) + space).astype(np.uint64)


def session_inputs(batch: Batch, of: Rows) -> Inputs:
    """What the ranker takes of a batch's first row, without gradients."""
    found = int(batch.found[0])
    means = []
    for bag in batch.bags(0):
        rows, present = of.rows(bag, BEFORE)
        means.append(rows.sum(axis=0) / max(1, int(present.sum())))
    articles, _ = of.rows(batch.articles[0, :found], CLICKED)
    sessions = np.stack(means)[None, :, 1:].astype(np.float32)
    features = torch.from_numpy(batch.features[:1, :found])
    absent = torch.zeros((1, found), dtype=torch.bool)
    return Inputs(features, torch.from_numpy(sessions), torch.from_numpy(articles[None]), absent)


def _gradient(tensor: Tensor) -> Floats:
    assert tensor.grad is not None
    return np.asarray(tensor.grad.numpy())
