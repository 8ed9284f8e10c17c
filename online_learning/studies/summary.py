"""All measurements of a study by group, setting and metric, with their intervals."""

from collections.abc import Iterable

from online_learning.studies.intervals import Interval, paired, t_interval
from online_learning.studies.study import Measurement


class Summary:
    """What was measured, in the order in which it came; `baseline` is the setting that others are compared with."""

    def __init__(self, measurements: Iterable[Measurement], baseline: str = "") -> None:
        self.baseline = baseline
        self._values: dict[tuple[str, str, str], dict[int, float]] = {}
        self._x: dict[tuple[str, str], float] = {}
        for one in measurements:
            self._values.setdefault((one.group, one.setting, one.metric), {})[one.seed] = one.value
            if one.x is not None:
                self._x[one.group, one.setting] = one.x

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(group for group, _, _ in self._values))

    @property
    def metrics(self) -> list[str]:
        return list(dict.fromkeys(metric for _, _, metric in self._values))

    @property
    def seeds(self) -> list[int]:
        return sorted({seed for values in self._values.values() for seed in values})

    def settings(self, group: str) -> list[str]:
        """The group's settings: by their place on the axis where all have one, else as they came."""
        named = list(dict.fromkeys(setting for of, setting, _ in self._values if of == group))
        if all((group, setting) in self._x for setting in named):
            named.sort(key=lambda setting: self._x[group, setting])
        return named

    def x(self, group: str, setting: str) -> float | None:
        """Its place on the picture's axis."""
        return self._x.get((group, setting))

    def values(self, group: str, setting: str, metric: str) -> dict[int, float]:
        """Seed -> value; empty where nothing was measured."""
        return self._values.get((group, setting, metric), {})

    def interval(self, group: str, setting: str, metric: str) -> Interval | None:
        """The mean over seeds; None where nothing was measured."""
        values = self.values(group, setting, metric)
        return t_interval(list(values.values())) if values else None

    def difference(self, group: str, setting: str, metric: str) -> Interval | None:
        """Against the baseline of the group, seed by seed; None for the baseline itself and where it was not run."""
        if not self.baseline or setting == self.baseline:
            return None
        return paired(self.values(group, setting, metric), self.values(group, self.baseline, metric))
