"""What may be shown at all, decided before retrieval so that no source spends its places on what may not."""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray


def without(allowed: NDArray[np.bool_], slot_of: Mapping[str, int], items: Iterable[str]) -> NDArray[np.bool_]:
    """`allowed` less the named items; ids that the catalogue lacks are passed over."""
    slots = [slot for item in items if (slot := slot_of.get(item, -1)) >= 0]
    if not slots:
        return allowed
    kept = allowed.copy()
    kept[slots] = False
    return kept
