"""Which unseen keys get a row: always, at the n-th sighting, or by chance.

The counting filter is a count-min sketch (Cormode, Muthukrishnan 2005) of 4 rows of w counters with conservative
update (Estan, Varghese 2002). Its period is w * (threshold - 1) / 2 sightings of keys that have no row: with each, all
counters are halved, or a long stream would fill them. In such a stream, however long,
- at most 1 % of the keys that come once get a row (0.6 % where no others come, at threshold 2; less above);
- a key whose first `threshold` sightings lie within a share x of a period is late with chance x at most: the chance
  that counters are halved between them. Each halving costs it half a threshold of sightings at most; a key that comes
  less often than `threshold` times in two periods may never get a row.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.compiled import inlined
from online_learning.table.intrinsics import mix64
from online_learning.table.settings import AdmissionPolicy, AdmissionSettings

SKETCH_ROWS = 4

ALWAYS, COUNT, PROBABILITY = 0, 1, 2
CODES = {
    AdmissionPolicy.ALWAYS: ALWAYS,
    AdmissionPolicy.COUNT: COUNT,
    AdmissionPolicy.PROBABILITY: PROBABILITY,
}

# Places in the admission state, i64 [2].
SIGHTINGS, DRAWS = 0, 1


class Admission:
    """What one table admits and what it remembers for that: `sketch` u16 [4 * w] of `count`, `state` i64 [2]: sightings
    since the last halving, and draws of `probability`."""

    def __init__(self, settings: AdmissionSettings) -> None:
        self._settings = settings
        self._counts = settings.policy is AdmissionPolicy.COUNT
        self.sketch = np.zeros(SKETCH_ROWS * (settings.counters if self._counts else 1), np.uint16)
        self.state = np.zeros(2, np.int64)

    def rule(self, *, passed: bool = False) -> tuple[Any, ...]:
        """The first arguments of `admits`; `passed`: of keys that have been admitted once."""
        cut = np.uint64(min(int(self._settings.probability * 2.0**64), 0xFFFF_FFFF_FFFF_FFFF))
        code = ALWAYS if passed else CODES[self._settings.policy]
        return code, self._settings.threshold, cut, self.sketch, self.state

    def kept(self) -> NDArray[np.uint16]:
        """The counters as a snapshot keeps them, nothing where none count."""
        return self.sketch.copy() if self._counts else np.empty(0, np.uint16)

    def restore(self, sightings: int, draws: int, sketch: NDArray[Any]) -> None:
        """Takes over what a snapshot kept; a filter of another size begins anew."""
        self.state[:] = sightings, draws
        if len(sketch) == len(self.sketch):
            self.sketch[:] = sketch


@inlined
def count_sighting(threshold, sketch, state, seed, key):  # type: ignore[no-untyped-def]
    """Count one sighting of a key in the sketch u16 [4 * w] and return its estimated count."""
    width = np.uint64(sketch.shape[0] // SKETCH_ROWS)
    hashed = mix64(key ^ seed)
    # Kirsch, Mitzenmacher 2006: two hashes stand for all.
    step = (hashed >> np.uint64(32)) | np.uint64(1)
    least = np.uint16(0xFFFF)
    for row in range(SKETCH_ROWS):
        place = np.uint64(row) * width + ((hashed + np.uint64(row) * step) & (width - np.uint64(1)))
        least = min(least, sketch[place])
    if least < np.uint16(0xFFFF):
        raised = np.uint16(least + np.uint16(1))
        for row in range(SKETCH_ROWS):
            place = np.uint64(row) * width + ((hashed + np.uint64(row) * step) & (width - np.uint64(1)))
            if sketch[place] < raised:
                sketch[place] = raised
        least = raised
    state[SIGHTINGS] += 1
    if 2 * state[SIGHTINGS] >= np.int64(width) * max(threshold - 1, 1):
        for other in range(sketch.shape[0]):
            sketch[other] >>= np.uint16(1)
        state[SIGHTINGS] = 0
    return np.int64(least)


@inlined
def admits(policy, threshold, cut, sketch, state, seed, key):  # type: ignore[no-untyped-def]
    """Whether this sighting of an unseen key earns it a row. `cut`: probability * 2^64."""
    if policy == COUNT:
        return count_sighting(threshold, sketch, state, seed, key) >= threshold
    if policy == PROBABILITY:
        state[DRAWS] += 1
        return mix64(mix64(seed ^ np.uint64(state[DRAWS])) ^ key) <= cut
    return True
