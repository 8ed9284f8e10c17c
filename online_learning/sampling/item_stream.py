"""The items of the newest positives: a distribution that moves with the stream, to draw from and to correct for.

A ring of the last `window` items: drawing is one look into it, and an item's probability is its share of the ring,
exactly what it is drawn with. The estimator of Yi et al. 2019 (algorithm 2: the moving average of the steps between
two sightings of an item) needs no window but hashes items together, and one cannot draw from it.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray


class ItemStreamState(msgspec.Struct, frozen=True):
    """`names`: the distinct items; `ring`: i32 places in `names`, as bytes; `at`: where the next item goes in the ring;
    `draws`: how often was drawn."""

    names: list[str] = []
    ring: bytes = b""
    at: int = 0
    draws: int = 0


class ItemStream:
    """The last `window` items, and draws from them that are a function of the seed and of what was called."""

    def __init__(self, window: int, seed: int) -> None:
        self._window, self._seed = window, seed
        self._ring: list[str] = []
        self._counts: dict[str, int] = {}
        self._at = 0
        self._draws = 0

    def __len__(self) -> int:
        return len(self._ring)

    def add(self, items: list[str]) -> None:
        """Takes the items of new positives, in order; the oldest make room."""
        for item in items:
            if len(self._ring) < self._window:
                self._ring.append(item)
            else:
                old = self._ring[self._at]
                left = self._counts[old] - 1
                if left:
                    self._counts[old] = left
                else:
                    del self._counts[old]
                self._ring[self._at] = item
            self._counts[item] = self._counts.get(item, 0) + 1
            self._at = (self._at + 1) % self._window

    def draw(self, n: int) -> list[str]:
        """n items with replacement, each with its probability; none before there are any."""
        if not self._ring:
            return []
        # Philox is keyed, not seeded: a generator for each call costs microseconds and leaves two integers to keep.
        key = np.array([self._seed & 0xFFFF_FFFF_FFFF_FFFF, self._draws], dtype=np.uint64)
        self._draws += 1
        places = np.random.Generator(np.random.Philox(key=key)).integers(0, len(self._ring), n)
        return [self._ring[place] for place in places.tolist()]

    def log_probabilities(self, items: list[str]) -> NDArray[np.float32]:
        """ln q f32 [n] of items; one that is not in the window counts as seen once."""
        counts = [self._counts.get(item, 1) for item in items]
        return np.log(np.array(counts, dtype=np.float64) / max(len(self._ring), 1)).astype(np.float32)

    # --- keeping ---------------------------------------------------------------------------------------------------

    def state(self) -> ItemStreamState:
        """What goes into a checkpoint."""
        names = list(dict.fromkeys(self._ring))
        place = {name: number for number, name in enumerate(names)}
        ring = np.array([place[item] for item in self._ring], dtype=np.int32).tobytes()
        return ItemStreamState(names, ring, self._at, self._draws)

    def restore(self, state: ItemStreamState) -> None:
        """Takes over what was kept; of a longer window the newest."""
        ring = [state.names[place] for place in np.frombuffer(state.ring, dtype=np.int32).tolist()]
        at = state.at
        if at < len(ring) and len(ring) != self._window:
            # It was full at another length: in order, so that it can be filled up or cut.
            ring, at = ring[at:] + ring[:at], len(ring)
        self._ring, self._counts, self._at = [], {}, 0
        self.add(ring[-self._window :])
        self._at = at % self._window if len(ring) <= self._window else 0
        self._draws = state.draws
