"""Keeps every item's retrieval vector in step with the rows that it is made of."""

import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import Side
from online_learning.models.parameters import Parameters, ShapeMismatch
from online_learning.models.retriever import Retriever
from online_learning.table.rows import gather_pooled_range
from serving.replica.items import Items
from serving.shared.head import HeadWriter
from serving.shared.shared_table import SharedTableWriter
from serving.shared.vectors import VectorsWriter

logger = logging.getLogger(__name__)

# numba's kernels carry no types.
_pool: Any = gather_pooled_range

# A row that more items share (a genre) changes with nearly every step, and would make all of them new each time: those
# wait for the next sweep. An item's own row, by which a click moves it, does not wait.
_SHARED_BY: Final = 32
_SWEEP_EVERY_S: Final = 0.5
_SWEEP_SLOTS: Final = 4096
"""Items made new at once: some 2 ms, so that frames do not wait long behind a sweep."""


class ItemVectors:
    """Vectors f32 [items, W] from the pooled rows of each item's keys, as the retriever makes them."""

    def __init__(self, head: HeadWriter, items: Items, retriever: Retriever, incarnation: int) -> None:
        self._items = items
        self._retriever = retriever
        self._vectors = VectorsWriter(head, incarnation, retriever.width)
        self._parameters: Parameters = {}
        self._of_key: dict[int, set[int]] = {}
        self._known: dict[int, list[int]] = {}
        self._now: set[int] = set()
        self._shared: set[int] = set()
        self._sweep: list[int] = []
        self._sweep_due_s = 0.0
        self._moved = False

    def add(self, slot: int) -> None:
        """An item is new, or its keys have changed."""
        for key in self._known.get(slot, []):
            self._of_key[key].discard(slot)
        bags = np.array(self._items.bags[slot].keys, np.uint64)
        keys = self._known[slot] = self._retriever.keys(bags).tolist()
        for key in keys:
            self._of_key.setdefault(key, set()).add(slot)
        self._now.add(slot)

    def add_new(self) -> None:
        """Takes up all items that came since the last call."""
        for slot in range(len(self._known), len(self._items)):
            self.add(slot)

    def touch(self, keys: NDArray[np.uint64]) -> None:
        """Rows of these keys u64 [n] have changed."""
        for key in keys.tolist():
            slots = self._of_key.get(key)
            if slots is None:
                continue
            if len(slots) <= _SHARED_BY:
                self._now |= slots
            else:
                self._shared.add(key)

    def take(self, parameters: Parameters) -> None:
        """The dense parameters of now; other ones than before make all vectors that hold some new."""
        if parameters is self._parameters or not parameters:
            return
        self._parameters = parameters
        try:
            self._retriever.load(parameters)
        except ShapeMismatch as error:
            # A trainer with other settings, or of another version: whoever restarts it ends this.
            logger.warning("the published parameters are of another model: %s", error)
            return
        self._moved = True

    def touch_all(self) -> None:
        """The table is another one."""
        self._sweep = list(range(len(self._known)))

    def flush(self, table: SharedTableWriter, now_s: float) -> bool:
        """Writes what is due (`now_s` is monotonic); whether more of a sweep is left for the next call."""
        self._vectors.make_room(len(self._items))
        if self._now:
            self._write(table, list(self._now))
            self._now.clear()
        if not self._sweep and (self._shared or self._moved) and now_s >= self._sweep_due_s:
            found: set[int] = set()
            for key in self._shared:
                found |= self._of_key.get(key, set())
            self._sweep = list(self._known if self._moved else found)
            self._shared.clear()
            self._moved = False
            self._sweep_due_s = now_s + _SWEEP_EVERY_S
        if self._sweep:
            self._write(table, self._sweep[:_SWEEP_SLOTS])
            del self._sweep[:_SWEEP_SLOTS]
        return bool(self._sweep)

    def _write(self, table: SharedTableWriter, slots: list[int]) -> None:
        where = np.array(slots, np.int64)
        side = self._retriever.side(self._items.side().take(where))
        if side.fields:
            self._vectors.write(where, self._retriever.item_vectors(pooled_rows(table, side)))


def pooled_rows(table: SharedTableWriter, side: Side) -> NDArray[np.float32]:
    """Mean rows f32 [n, F, width] of a side's bags; absent rows are left out, an empty bag is zeros."""
    rows, found = table.lookup(side.keys)
    there = np.where(found, np.arange(len(found)), -1)
    out = np.empty(side.rows * side.fields * table.width, np.float32)
    _pool(rows.reshape(-1), table.width, there, side.offsets, True, out, 0, side.rows * side.fields)
    return out.reshape(side.rows, side.fields, table.width)
