"""The whole catalogue in order of popularity and of coldness, per arm, made anew once a second.

Decay changes all counts of an item alike, so these orders grow old slowly; candidates are ranked by counts of now.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from serving.pipeline.ranking import popularity, shown
from serving.shared.catalogue import Catalogue
from serving.shared.mirror import Mirror

# One request a second pays for it: some 4 ms with 10,000 items.
_EVERY_MS = 1_000
# An item with more decayed impressions than this is no longer cold: its rate is known to about a tenth.
_COLD_BELOW = 50.0


class Order(Struct, frozen=True):
    """Slots of the catalogue: `popular` best first, `cold` only hardly shown ones, least shown and newest first."""

    made_at: int
    catalogue: Catalogue
    popular: NDArray[np.int64]
    cold: NDArray[np.int64]


class Orders:
    """Remembers one order per arm."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._made: dict[str, Order] = {}

    def of(self, arm: str, now_ms: int) -> Order:
        """The arm's order, at most a second old and of this very catalogue."""
        known = self._made.get(arm)
        if known is None or known.catalogue is not self._mirror.catalogue or self._old(known, now_ms):
            known = self._made[arm] = self._make(arm, now_ms)
        return known

    def _old(self, order: Order, now_ms: int) -> bool:
        # A clock that was set back makes it old too.
        return not 0 <= now_ms - order.made_at < _EVERY_MS

    def _make(self, arm: str, now_ms: int) -> Order:
        catalogue = self._mirror.catalogue
        stats, _ = self._mirror.item_stats(np.arange(len(catalogue)), arm, now_ms)
        seen = shown(stats)
        cold = np.flatnonzero(seen < _COLD_BELOW)
        return Order(
            made_at=now_ms,
            catalogue=catalogue,
            popular=np.argsort(-popularity(stats), kind="stable"),
            # The last slots are the newest items.
            cold=cold[np.lexsort((-cold, seen[cold]))],
        )
