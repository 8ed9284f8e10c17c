"""Which arms' statistics are kept: the organic one, and those that a request can be assigned to."""

from collections.abc import Iterable

from serving.shared.item_stats import ORGANIC
from streams.records import Experiment


class Arms:
    """Arms are asked for while an active definition names them. What is passed over of others is remembered by name:
    only an arm of which something is missing must be read again when it is back."""

    def __init__(self) -> None:
        self.wanted = frozenset((ORGANIC,))
        self._passed_over: set[str] = set()

    def wants(self, arm: str) -> bool:
        """Whether the arm's statistics are kept; an arm that is turned down is remembered."""
        if arm in self.wanted:
            return True
        self._passed_over.add(arm)
        return False

    def follow(self, definitions: Iterable[Experiment]) -> frozenset[str]:
        """Takes the definitions of now; returns the arms that are back, whose statistics must be read again."""
        named = (arm.name for one in definitions if one.active for arm in one.arms)
        before, self.wanted = self.wanted, frozenset((ORGANIC, *named))
        back = frozenset(self.wanted & self._passed_over)
        self._passed_over |= before - self.wanted
        self._passed_over -= back
        return back
