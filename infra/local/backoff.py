"""How long to wait before a crashed process is started again."""

import msgspec


class Backoff(msgspec.Struct):
    """Doubles from `first_s` to `max_s` with each crash, and begins anew after `steady_s` of being up."""

    first_s: float
    max_s: float
    steady_s: float
    crashes: int = 0

    def crashed(self, up_for_s: float) -> float:
        """Counts a crash after `up_for_s` of being up; returns the seconds to wait."""
        if up_for_s >= self.steady_s:
            self.crashes = 0
        self.crashes += 1
        # The exponent is capped as well: 2.0 ** 1100 would overflow.
        return min(self.max_s, self.first_s * 2.0 ** min(self.crashes - 1, 32))
