"""All that serving reads on this host, behind one object per process."""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from serving.shared.catalogue import Catalogue, decode_catalogue
from serving.shared.dense_bundle import DenseBundle, DenseReader
from serving.shared.head import File, HeadReader, Lineage
from serving.shared.item_stats import COLUMNS, ItemStats, map_item_stats
from serving.shared.shared_table import SharedTableReader
from serving.shared.vectors import Vectors, map_vectors
from streams.records import Experiment, Item

_EXPERIMENTS: Final = msgspec.json.Decoder(list[Experiment])


class Mirror:
    """Read-only view of the replica's folder; everything is empty until the replica has written it.

    Call `refresh` once per request (microseconds where nothing changed). Not for several threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.catalogue = Catalogue()
        self.table = SharedTableReader(folder)
        self._head = HeadReader(folder)
        self._dense = DenseReader(folder, self._head)
        self._generations: tuple[int, int, int] = (0, 0, 0)
        self._stats: ItemStats | None = None
        self._vectors: Vectors | None = None
        self._experiments: tuple[int, list[Experiment]] = (0, [])
        self.refresh()

    @property
    def ready(self) -> bool:
        """Whether the replica has written a table and a catalogue."""
        return self._head.generation(File.TABLE) > 0 and self.catalogue.incarnation != 0

    def refresh(self) -> None:
        """Takes up newer generations. Raises Unreadable where the folder is of another version of freshet."""
        if self._head.refresh():
            # The folder was made anew, and counts its generations from one again.
            self._dense = DenseReader(self.folder, self._head)
            self._generations = (0, 0, 0)
            self._experiments = (0, [])
        self.table.refresh()
        self._refresh_items()

    def item_stats(
        self, slots: NDArray[np.int64], arm: str, now_ms: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(f32 [k, 6] in the order of ITEM_STATS, at i64 [k]) of slots i64 [k]: what `arm` and organic actions brought
        about, decayed to `now_ms`; NaN where nothing is known. `at`: when it became available (ms, 0: nothing)."""
        if self._stats is None:
            return np.full((len(slots), COLUMNS), np.nan, np.float32), np.zeros(len(slots), np.int64)
        return self._stats.read(slots, arm, now_ms)

    def vectors(self) -> NDArray[np.float32]:
        """The items' retrieval vectors f32 [n, W] by slot, as they are at each look (`scores` reads them whole)."""
        if self._vectors is None:
            return np.zeros((len(self.catalogue), 0), np.float32)
        return self._vectors.matrix[: len(self.catalogue)]

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dot products f32 [n] of all items' vectors with query f32 [W], none half written."""
        if self._vectors is None:
            return np.zeros(len(self.catalogue), np.float32)
        return self._vectors.scores(query, len(self.catalogue))

    def item(self, item: str) -> Item | None:
        """An item's latest record, None where there is none: an `ItemLookup` that stays valid over `refresh`."""
        return self.catalogue.item(item)

    def dense(self) -> DenseBundle:
        """The newest dense bundle; the same object until a newer one is there."""
        return self._dense.current()

    def lineage(self) -> Lineage:
        """What the sparse rows contain; read it before `table.lookup`."""
        return self._head.lineage()

    def experiments(self) -> list[Experiment]:
        """The newest definition of every experiment, by name."""
        generation = self._head.generation(File.EXPERIMENTS)
        if generation != self._experiments[0]:
            try:
                data = self._head.path(File.EXPERIMENTS, generation).read_bytes()
            except FileNotFoundError:
                return self._experiments[1]
            self._experiments = (generation, _EXPERIMENTS.decode(data))
        return self._experiments[1]

    def _refresh_items(self) -> None:
        found = tuple(self._head.generation(file) for file in (File.CATALOGUE, File.ITEM_STATS, File.VECTORS))
        if found == self._generations or 0 in found:
            return
        try:
            catalogue = self.catalogue
            if found[0] != self._generations[0]:
                data = self._head.path(File.CATALOGUE, found[0]).read_bytes()
                catalogue = decode_catalogue(data, self.catalogue)
            stats = map_item_stats(self._head.path(File.ITEM_STATS, found[1]))
            vectors = map_vectors(self._head.path(File.VECTORS, found[2]))
        except FileNotFoundError:
            # Replaced between the look and the reading: the next call finds the newer ones.
            return
        n = len(catalogue)
        one = catalogue.incarnation == stats.incarnation == vectors.incarnation
        if one and n <= stats.slots and n <= vectors.rows:
            self.catalogue, self._stats, self._vectors = catalogue, stats, vectors
            self._generations = (found[0], found[1], found[2])
