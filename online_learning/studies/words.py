"""How figures are worded in findings."""

from online_learning.studies.intervals import Interval


def signed(change: Interval, digits: int) -> str:
    """A difference as `+.0012 ± .0003`; without the interval where there is none."""
    mean = _short(f"{change.mean:+.{digits}f}")
    return f"{mean} ± {_short(f'{change.half:.{digits}f}')}" if change.half > 0 else mean


def _short(text: str) -> str:
    """Without the 0 in front of the point, as areas and rates are written."""
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text
