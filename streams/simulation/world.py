"""A seeded, versioned world: users whose tastes drift, and items that come and go."""

import hashlib
from typing import Annotated, Final

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from streams.settings import Count, Positive

WORLD_VERSION: Final = 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class WorldSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The size and the temper of a world.

    `tick_s`: the step in which it moves. `taste_half_life_s`: the time in which half of a user's personal taste is
    forgotten. `changes_per_hour`: how often a user gives up one favourite category for another one.
    `arrivals_per_minute`: new items, each of which retires the oldest one.
    """

    users: Count = 400
    items: Annotated[int, Meta(ge=20)] = 300
    categories: Annotated[int, Meta(ge=4)] = 12
    segments: Count = 6
    favourites: Annotated[int, Meta(ge=1, le=3)] = 2
    latent: Count = 4
    tick_s: Positive = 1.0
    taste_half_life_s: Positive = 1800.0
    changes_per_hour: Annotated[float, Meta(ge=0)] = 0.5
    arrivals_per_minute: Annotated[float, Meta(ge=0)] = 4.0


# Logits. So a random list gets a CTR of some 5%, the best one for all some 10%, the best one per user some 40%.
_BASE: Final = -3.9
_FAVOURITE: Final = 2.9
_LIKING: Final = 0.3
_QUALITY: Final = 0.45
_PERSONAL: Final = 0.7
# A favourite is one of the user's segment with this probability, else any: the segment is a hint, not the answer.
_LOYALTY: Final = 0.75


class Moved(Struct, frozen=True):
    """Which items (by number) came and went in a stretch of time."""

    arrived: list[int]
    retired: list[int]


class World:
    """Users and items as of `tick`; a user is a row number, an item a number that is never used again.

    What happens depends on the seed and the settings alone: every tick draws from a generator of its own, whoever
    asks and however often. Arrays: `appeal` is users x available items (logits). Not safe from several threads.
    """

    def __init__(self, seed: int, settings: WorldSettings | None = None) -> None:
        self.seed, self.settings, self.tick = seed, settings or WorldSettings(), 0
        s, rng = self.settings, self._generator(0)
        self.segment: Ints = rng.permutation(np.arange(s.users) % s.segments)
        # Every category is the favourite of about as many segments, so that no single list can please most users.
        wanted = np.resize(rng.permutation(s.categories), s.segments * s.favourites)
        self._segment_favourites = wanted.reshape(s.segments, s.favourites)
        # Some users come far more often than others.
        weight = rng.lognormal(0.0, 0.5, s.users)
        self.activity: Floats = weight / weight.sum()
        self.favourites: Ints = np.stack([self._choose(rng, user) for user in range(s.users)])
        self._liking: Floats = rng.normal(0.0, _LIKING, (s.users, s.categories))
        self._personal: Floats = rng.normal(0.0, 1.0, (s.users, s.latent))
        self.first_item = 0
        self.category: Ints = rng.permutation(np.arange(s.items) % s.categories)
        self.quality: Floats = rng.normal(0.0, _QUALITY, s.items)
        self._vector: Floats = rng.normal(0.0, 1.0, (s.items, s.latent))
        # How widely an item is known has nothing to do with how good it is: organic counts are biased by it.
        self.fame: Floats = rng.pareto(1.5, s.items) + 0.1
        self._set_appeal()

    @property
    def items(self) -> range:
        """The numbers of the available items, oldest first; column j of `appeal` is `items[j]`."""
        return range(self.first_item, self.first_item + self.settings.items)

    def advance(self, to_s: float) -> Moved:
        """Moves the world to the last whole tick at or before `to_s` seconds after its beginning."""
        first, last = self.first_item, self.first_item + self.settings.items
        moved = False
        while (self.tick + 1) * self.settings.tick_s <= to_s:
            self._step()
            moved = True
        if moved:
            self._set_appeal()
        gone = range(first, min(last, self.first_item))
        return Moved(arrived=list(range(max(last, self.first_item), self.items.stop)), retired=list(gone))

    def digest(self) -> str:
        """SHA-256 over all state; two worlds with equal digests are equal bit for bit."""
        hashed = hashlib.sha256(repr((WORLD_VERSION, self.seed, self.settings, self.tick, self.first_item)).encode())
        for array in (self.segment, self.activity, self.favourites, self.category, self.fame, self.appeal):
            hashed.update(np.ascontiguousarray(array).tobytes())
        return hashed.hexdigest()

    def _generator(self, tick: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([WORLD_VERSION, self.seed, tick])))

    def _choose(self, rng: np.random.Generator, user: int) -> Ints:
        """The user's favourite categories, all different."""
        chosen: list[int] = []
        for own in self._segment_favourites[self.segment[user]]:
            category = int(own) if rng.random() < _LOYALTY else int(rng.integers(self.settings.categories))
            while category in chosen:
                category = int(rng.integers(self.settings.categories))
            chosen.append(category)
        return np.array(chosen, dtype=np.int64)

    def _step(self) -> None:
        s = self.settings
        self.tick += 1
        rng = self._generator(self.tick)
        # An Ornstein-Uhlenbeck process keeps its spread while it forgets.
        kept = 0.5 ** (s.tick_s / s.taste_half_life_s)
        fresh = np.sqrt(1.0 - kept * kept)
        self._personal = kept * self._personal + fresh * rng.normal(0.0, 1.0, self._personal.shape)
        self._liking = kept * self._liking + fresh * rng.normal(0.0, _LIKING, self._liking.shape)
        changing = rng.random(s.users) < s.changes_per_hour * s.tick_s / 3600.0
        for user in np.flatnonzero(changing):
            slot = int(rng.integers(s.favourites))
            others = np.setdiff1d(np.arange(s.categories), self.favourites[user])
            self.favourites[user, slot] = rng.choice(others)
        for _ in range(int(rng.poisson(s.arrivals_per_minute * s.tick_s / 60.0))):
            self._replace_oldest(rng)

    def _replace_oldest(self, rng: np.random.Generator) -> None:
        self.first_item += 1
        self.category = np.append(self.category[1:], rng.integers(self.settings.categories))
        self.quality = np.append(self.quality[1:], rng.normal(0.0, _QUALITY))
        self._vector = np.vstack([self._vector[1:], rng.normal(0.0, 1.0, (1, self.settings.latent))])
        self.fame = np.append(self.fame[1:], rng.pareto(1.5) + 0.1)

    def _set_appeal(self) -> None:
        taste = _BASE + self._liking
        np.put_along_axis(taste, self.favourites, np.take_along_axis(taste, self.favourites, 1) + _FAVOURITE, 1)
        personal = self._personal @ self._vector.T / np.sqrt(self.settings.latent)
        self.appeal: Floats = taste[:, self.category] + self.quality + _PERSONAL * personal
