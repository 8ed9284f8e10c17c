"""What users of a world do: answer a list, and act by themselves."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from streams.simulation.truth import STAY_SPREAD, Truth
from streams.simulation.world import Floats, World

# Who clicked something that suits them well likes it as often as this, times how well it suits.
_LIKE = 0.5
# Half of what users find by themselves they find by name, where the well-known wins; half by their own taste.
_BY_FAME = 0.5


class Act(Struct, frozen=True):
    """One action: on the item at `position` of a list, or on `item` with no list (`position` -1)."""

    item: int
    kind: str
    position: int = -1
    value: float | None = None


def respond(
    truth: Truth, user: int, items: Sequence[int | None], rng: np.random.Generator, dwell: bool = False
) -> list[Act]:
    """The clicks of a user on a list of item numbers (None: not of this world), and the likes that follow them.

    With `dwell`, each click is followed by how long the user stayed, in seconds.
    """
    clicks = truth.clicks(user, items)
    acts = []
    for position in np.flatnonzero(rng.random(len(items)) < clicks).tolist():
        item = items[position]
        assert item is not None
        acts.append(Act(item=item, kind="click", position=position))
        if rng.random() < _LIKE * truth.attraction_of(user, item):
            acts.append(Act(item=item, kind="like", position=position))
        if dwell:
            acts.append(_dwell(truth, user, item, position, rng))
    return acts


def choose_user(world: World, rng: np.random.Generator) -> int:
    """Who comes next."""
    return _drawn(world.activity, rng)


def wander(world: World, truth: Truth, user: int, rng: np.random.Generator, dwell: bool = False) -> list[Act]:
    """What a user does without being recommended anything: views an item, found by its fame or by taste, and may
    click it; `dwell` as of `respond`."""
    weight = world.fame if rng.random() < _BY_FAME else truth.attraction[user]
    item = truth.items[_drawn(weight / weight.sum(), rng)]
    acts = [Act(item=item, kind="view")]
    if rng.random() < truth.attraction_of(user, item):
        acts.append(Act(item=item, kind="click"))
        if dwell:
            acts.append(_dwell(truth, user, item, -1, rng))
    return acts


def _drawn(probability: Floats, rng: np.random.Generator) -> int:
    """What `rng.choice(len(probability), p=probability)` gives, without its checks, which take longer than the draw."""
    cumulated = probability.cumsum()
    cumulated /= cumulated[-1]
    return int(cumulated.searchsorted(rng.random(), side="right"))


def _dwell(truth: Truth, user: int, item: int, position: int, rng: np.random.Generator) -> Act:
    stay_s = truth.median_stay_s(user, item) * float(rng.lognormal(0.0, STAY_SPREAD))
    return Act(item=item, kind="dwell", position=position, value=round(stay_s, 1))
