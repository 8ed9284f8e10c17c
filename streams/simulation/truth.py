"""What only the world knows: how likely each click is, and what the best lists would earn.

A user clicks the item at position k with probability examination(k) x sigmoid(appeal): the examination hypothesis
(Richardson, Dominowska & Ragno 2007). A CTR here is the expected number of clicks per item shown.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from streams.simulation.world import Floats, World

# Seconds that half of those who clicked stay where an item's appeal is 0, and e**0.5 times as long for each logit more:
# favourites keep their users about four times as long as other items.
_STAY_S: Final = 30.0
_STAY_PER_LOGIT: Final = 0.5
# Of the log of the seconds: two thirds of them lie within a factor of 1.65 of their median.
STAY_SPREAD: Final = 0.5

# Attention at position k is 1 / (1 + 0.08 k): the tenth item is looked at 58% as often as the first.
STEEPNESS: Final = 0.08


def examination(n: int) -> Floats:
    """The probability that each of `n` positions is looked at; falls with the position."""
    attention: Floats = 1.0 / (1.0 + STEEPNESS * np.arange(n, dtype=np.float64))
    return attention


def attraction(world: World) -> Floats:
    """The probability that a user who looks at an item clicks it: users x available items."""
    probability: Floats = 1.0 / (1.0 + np.exp(-world.appeal))
    return probability


class Truth:
    """The truth of a world at its present tick, for lists of `n` items (or of all, where there are fewer)."""

    def __init__(self, world: World, n: int) -> None:
        self.items = world.items
        self._activity = world.activity
        self._examination = examination(min(n, len(self.items)))
        self.attraction = attraction(world)
        self._appeal = world.appeal

    def attraction_of(self, user: int, item: int) -> float:
        """The probability that the user clicks the item when looking at it; 0 where it is not available."""
        return float(self.attraction[user, item - self.items.start]) if item in self.items else 0.0

    def median_stay_s(self, user: int, item: int) -> float:
        """How long half of such users stay at an available item that they clicked, in seconds; the log of the time is
        normal with the deviation `STAY_SPREAD`."""
        return _STAY_S * math.exp(_STAY_PER_LOGIT * float(self._appeal[user, item - self.items.start]))

    def clicks(self, user: int, items: Sequence[int | None]) -> Floats:
        """The click probability at each position of a list of item numbers; 0 where an item is not available (any
        more) or None."""
        probability = np.zeros(len(items))
        for k, item in enumerate(items):
            if item is not None:
                probability[k] = self.attraction_of(user, item)
        clicked: Floats = probability * examination(len(items))
        return clicked

    def best_of(self, user: int) -> float:
        """The CTR of the best list for this user."""
        n = len(self._examination)
        best = np.sort(self.attraction[user])[::-1][:n]
        return float(best @ self._examination) / n

    def best_ctr(self) -> float:
        """The CTR where every user gets the best list, users weighted by how often they come."""
        n = len(self._examination)
        best = np.sort(self.attraction, axis=1)[:, ::-1][:, :n]
        return float(self._activity @ (best @ self._examination)) / n

    def popularity_ctr(self) -> float:
        """The CTR of the best single list for all users: no ranking by popularity can do better."""
        n = len(self._examination)
        mean = np.sort(self._activity @ self.attraction)[::-1][:n]
        return float(mean @ self._examination) / n

    def random_ctr(self) -> float:
        """The CTR of lists drawn by chance."""
        return float((self._activity @ self.attraction).mean() * self._examination.mean())
