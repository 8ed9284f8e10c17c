"""What the difference between two arms is and how sure one can be, from aggregates that merge.

The database adds up, this adds inference: an arm is six sums over its units, so a billion impressions and ten of them
cost the same here, and the sums of two days are the sums of the days added.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from scipy import special

SRM_THRESHOLD: Final = 0.0005
"""A sample-ratio p below this means that the assignment or the logging is broken.

.0005 is the threshold that Microsoft's platform uses (Fabijan et al. 2019, "Diagnosing Sample Ratio Mismatch in Online
Controlled Experiments"): the check is made often, and a false alarm throws away an experiment.
"""


class ArmSums(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over an arm's units of a numerator y (clicks) and a denominator x (impressions).

    The sums of counts are integers and stay exact; adding two of these is adding their fields.
    """

    units: int = 0
    y: float = 0
    x: float = 0
    yy: float = 0
    xx: float = 0
    xy: float = 0

    def __add__(self, other: "ArmSums") -> "ArmSums":
        return ArmSums(
            units=self.units + other.units,
            y=self.y + other.y,
            x=self.x + other.x,
            yy=self.yy + other.yy,
            xx=self.xx + other.xx,
            xy=self.xy + other.xy,
        )


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio metric of one arm with the variance of its estimate; NaN where there is nothing to estimate it from."""

    value: float
    variance: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Treatment against control: absolute (value, low, high) and relative to the control (relative, ...).

    `p` is two-sided. Where a variance cannot be had (fewer than two units in an arm, no impressions) the bounds and p
    are NaN; relative figures are NaN where the control's ratio is 0.
    """

    value: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float
    confidence: float


def ratio(sums: ArmSums) -> Ratio:
    """The ratio of means and its variance by the delta method over units.

    Deng, Knoblich, Lu (KDD 2018), "Applying the Delta Method in Metric Analytics": with the unit of
    randomisation as the unit of analysis, Var(Y/X) = (s_yy - 2 r s_xy + r^2 s_xx) / (n x^2). Treating impressions as
    independent instead understates it whenever a user has more than one.
    """
    n = sums.units
    value = sums.y / sums.x if sums.x else math.nan
    if n < 2 or not sums.x:
        return Ratio(value=value, variance=math.nan)
    mean_x, mean_y = sums.x / n, sums.y / n
    s_yy = (sums.yy - n * mean_y * mean_y) / (n - 1)
    s_xx = (sums.xx - n * mean_x * mean_x) / (n - 1)
    s_xy = (sums.xy - n * mean_x * mean_y) / (n - 1)
    spread = s_yy - 2 * value * s_xy + value * value * s_xx
    # Cancellation may leave a tiny negative where all units are alike.
    return Ratio(value=value, variance=max(spread, 0.0) / (n * mean_x * mean_x))


def interval(estimate: Ratio, confidence: float = 0.95) -> tuple[float, float]:
    """The normal interval (low, high) of one arm's ratio. Raises ValueError for a confidence outside (0, 1)."""
    error = _quantile(confidence) * math.sqrt(estimate.variance)
    return estimate.value - error, estimate.value + error


def difference(treatment: ArmSums, control: ArmSums, confidence: float = 0.95) -> Difference:
    """The difference of the arms' ratios with a normal interval and two-sided p.

    The relative interval is made on the logarithm of the quotient of the ratios, whose variance is the sum of the
    squared coefficients of variation, so that it never falls below -100%.

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    z = _quantile(confidence)
    t, c = ratio(treatment), ratio(control)
    value = t.value - c.value
    error = math.sqrt(t.variance + c.variance)
    relative, relative_low, relative_high = _relative(t, c, z)
    return Difference(
        value=value,
        low=value - z * error,
        high=value + z * error,
        relative=relative,
        relative_low=relative_low,
        relative_high=relative_high,
        p=_two_sided(value, error),
        confidence=confidence,
    )


def _quantile(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` == {confidence}, must be in (0, 1)")
    return float(special.ndtri(0.5 + confidence / 2))


def _relative(treatment: Ratio, control: Ratio, z: float) -> tuple[float, float, float]:
    if not control.value > 0:
        return math.nan, math.nan, math.nan
    relative = treatment.value / control.value - 1
    if not treatment.value > 0:
        return relative, math.nan, math.nan
    error = math.sqrt(treatment.variance / treatment.value**2 + control.variance / control.value**2)
    return relative, (1 + relative) * math.exp(-z * error) - 1, (1 + relative) * math.exp(z * error) - 1


def _two_sided(value: float, error: float) -> float:
    if math.isnan(value) or math.isnan(error):
        return math.nan
    if error == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * special.ndtr(-abs(value) / error))


def sample_ratio(units: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """The p of a chi-square test that the units fell on the arms as `shares` says; compare with SRM_THRESHOLD.

    An arm that should get units and got none counts; an arm without a share that got some gives 0. NaN where there
    are no units, or fewer than two arms to choose between.

    Raises:
        ValueError: shares that do not add up to more than 0.
    """
    total, weight = sum(units.values()), sum(shares.values())
    if not weight > 0:
        raise ValueError(f"`shares` == {dict(shares)}, must add up to more than 0")
    if any(count for arm, count in units.items() if not shares.get(arm)):
        return 0.0
    wanted = {arm: share / weight for arm, share in shares.items() if share > 0}
    if not total or len(wanted) < 2:
        return math.nan
    chi2 = sum((units.get(arm, 0) - total * share) ** 2 / (total * share) for arm, share in wanted.items())
    return float(special.chdtrc(len(wanted) - 1, chi2))
