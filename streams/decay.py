"""Exponentially decayed counts: one place for the arithmetic that worker and serving must agree on."""

import math
from typing import Final

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


def decayed(value: float, elapsed_ms: float, half_life_ms: float) -> float:
    """A count as it stands `elapsed_ms` later; time never runs backwards (negative counts as 0).

    >>> decayed(8.0, 2 * HOUR_MS, HOUR_MS)
    2.0
    """
    if elapsed_ms <= 0 or value == 0.0:
        return value
    return value * math.pow(0.5, elapsed_ms / half_life_ms)


def added(value: float, at_ms: int, weight: float, ts_ms: int, half_life_ms: float) -> float:
    """The count at max(`at_ms`, `ts_ms`) when `weight` is added at `ts_ms` to `value` as it stood at `at_ms`.

    The order of additions does not matter: what comes late has decayed on its way.

    >>> added(4.0, 0, 1.0, HOUR_MS, HOUR_MS), added(4.0, HOUR_MS, 1.0, 0, HOUR_MS)
    (3.0, 4.5)
    """
    if ts_ms >= at_ms:
        return decayed(value, ts_ms - at_ms, half_life_ms) + weight
    return value + decayed(weight, at_ms - ts_ms, half_life_ms)
