"""Which unseen keys get a row: always, at the n-th sighting, or by chance.

The counting filter is a count-min sketch (Cormode, Muthukrishnan 2005) of 4 rows of w counters with conservative
update (Estan, Varghese 2002). After N sightings of keys that have no row, a key's count is never too low, and too
high by more than e * N / w with chance at most e^-4 = 0.018 (conservative update only lowers that). Every 8 * w
such sightings all counters are halved, or a long stream would fill it; a key seen less often than that can thus
be admitted late, and N in the bound stays under 16 * w.
"""

import numpy as np

from online_learning.table.compiled import inlined
from online_learning.table.intrinsics import mix64
from online_learning.table.settings import AdmissionPolicy

SKETCH_ROWS = 4
HALVING_PERIOD = 8

ALWAYS, COUNT, PROBABILITY = 0, 1, 2
CODES = {
    AdmissionPolicy.ALWAYS: ALWAYS,
    AdmissionPolicy.COUNT: COUNT,
    AdmissionPolicy.PROBABILITY: PROBABILITY,
}

# Places in the admission state, i64 [2].
SIGHTINGS, DRAWS = 0, 1


@inlined
def count_sighting(sketch, state, seed, key):  # type: ignore[no-untyped-def]
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
    if state[SIGHTINGS] >= np.int64(width) * HALVING_PERIOD:
        for other in range(sketch.shape[0]):
            sketch[other] >>= np.uint16(1)
        state[SIGHTINGS] = 0
    return np.int64(least)


@inlined
def admits(policy, threshold, cut, sketch, state, seed, key):  # type: ignore[no-untyped-def]
    """Whether this sighting of an unseen key earns it a row. `cut`: probability * 2^64."""
    if policy == COUNT:
        return count_sighting(sketch, state, seed, key) >= threshold
    if policy == PROBABILITY:
        state[DRAWS] += 1
        return mix64(mix64(seed ^ np.uint64(state[DRAWS])) ^ key) <= cut
    return True
