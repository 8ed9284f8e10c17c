"""When rows are looked through for those that the eviction policy lets go."""

import math

from online_learning.learners import Learners
from online_learning.settings import RowSettings
from online_learning.table.eviction import AT_ONCE
from online_learning.table.settings import EvictionPolicy


class Sweep:
    """Every `evict_interval_s` of the clock that its caller keeps; never under the policy none."""

    def __init__(self, settings: RowSettings, learners: Learners) -> None:
        self._learners, self._interval_s = learners, settings.evict_interval_s
        self._due_s = math.inf if settings.eviction is EvictionPolicy.NONE else -math.inf

    def run(self, now_s: float, version: int) -> None:
        """Lets rows go where that is due; `version` stamps their tombstones."""
        if now_s >= self._due_s:
            gone = self._learners.evict(version)
            # A call does not take long, so it may leave some: they go at the next turn.
            self._due_s = now_s if gone >= AT_ONCE else now_s + self._interval_s
