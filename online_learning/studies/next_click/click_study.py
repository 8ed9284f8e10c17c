"""What the studies on a log of clicks share: passes that rank the same clicks, and intervals over user sessions."""

import datetime as dt
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from online_learning.studies.intervals import Interval
from online_learning.studies.next_click.options import ClickOptions
from online_learning.studies.next_click.passes import ONLINE, Lag, baseline_pass, learner_pass
from online_learning.studies.next_click.protocol import Ranks
from online_learning.studies.next_click.settings import NextClickSettings
from online_learning.studies.next_click.significance import METRICS, clustered
from online_learning.studies.study import Measurement, Point, Study
from online_learning.studies.summary import Summary
from streams.decay import HOUR_MS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HALF: Final = " ±"
LESS: Final = " − online"
"""Beside each metric stand half of its interval over sessions, its difference to the online learner's, and half of that
one's: `HR@10`, `HR@10 ±`, `HR@10 − online`, `HR@10 − online ±`."""


class ClickStudy(Study):
    """A study whose points come out of a few passes; a pass is kept until all of its points are measured."""

    options = ClickOptions()
    settings = NextClickSettings()
    seeds = (0,)
    metrics = ("HR@10", "HR@10 ±", "MRR@10", "MRR@10 ±", "NDCG@10")
    digits = 4
    groups: ClassVar[Mapping[str, Mapping[str, Lag]]]
    """By group the replicas beside the online learner."""

    def __init__(self) -> None:
        self._passes: dict[int | None, Ranks] = {}

    @abstractmethod
    def place(self, group: str, setting: str) -> float | None:
        """A setting's place on the picture's axis."""

    def baselines(self, group: str) -> Sequence[str]:
        """Scorers of a group that no seed changes."""
        return ()

    def require(self, data: Path) -> None:
        self.options.check(data)

    def sizes(self, quick: bool) -> Mapping[str, str]:
        told = msgspec.to_builtins(self.settings)
        return {**self._options(quick).sizes(), **{name: _told(value) for name, value in told.items()}}

    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        return [
            Point(group, setting, seed)
            for seed in seeds
            for group, lags in self.groups.items()
            for setting in (*self.baselines(group), *lags, ONLINE)
        ]

    def draw(self, figure: "Figure", summary: Summary) -> None:
        """HR@10 and MRR@10 of each setting with their intervals over user sessions."""
        panels = figure.subplots(1, 2, sharey=True, squeeze=False)[0]
        group = summary.groups[0]
        for panel, metric in zip(panels, ("HR@10", "MRR@10"), strict=True):
            known = [
                (setting, one)
                for setting in summary.settings(group)
                if (one := over_sessions(summary, group, setting, metric)) is not None
            ]
            panel.errorbar(
                [one.mean for _, one in known], range(len(known)), xerr=[one.half for _, one in known], fmt="o"
            )
            panel.set_yticks(range(len(known)), [setting for setting, _ in known])
            panel.set_xlabel(metric)
            panel.grid(alpha=0.3)
        figure.set_size_inches(9.0, 3.6)
        figure.suptitle(self.title, fontsize=11)

    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        online = self._pass(point.seed, data, quick)
        key = f"{point.group}/{point.setting}"
        ranks = online.of[ONLINE] if point.setting == ONLINE else online.of.get(key)
        if ranks is None:
            ranks = self._pass(None, data, quick).of[point.setting]
        measured: dict[str, float] = {}
        for metric, of in METRICS.items():
            value = clustered(of(ranks), online.session)
            change = clustered(of(ranks) - of(online.of[ONLINE]), online.session)
            measured |= {metric: value.mean, metric + HALF: value.half}
            if point.setting != ONLINE:
                measured |= {metric + LESS: change.mean, metric + LESS + HALF: change.half}
        measured |= {"clicks ranked": float(len(ranks)), "articles ranked": float(online.candidates.mean())}
        place = self.place(point.group, point.setting)
        return [Measurement(point.group, point.setting, point.seed, name, one, place) for name, one in measured.items()]

    def _pass(self, seed: int | None, data: Path, quick: bool) -> Ranks:
        """Of the learner and all its replicas, or (no seed) of the baselines."""
        if seed not in self._passes:
            options = self._options(quick)
            clicks, window = options.read(data)
            if seed is None:
                self._passes[seed] = baseline_pass(clicks, window, options.scorer)
            else:
                lags = {f"{group}/{name}": lag for group, lags in self.groups.items() for name, lag in lags.items()}
                self._passes[seed] = learner_pass(clicks, window, self.settings, seed, lags)
        return self._passes[seed]

    def _options(self, quick: bool) -> ClickOptions:
        """`quick`: four hours to learn from and one to rank."""
        if not quick:
            return self.options
        from_ms = self.options.from_ms
        return msgspec.structs.replace(self.options, start=_day(from_ms - 4 * HOUR_MS), eval_to=_day(from_ms + HOUR_MS))


def over_sessions(summary: Summary, group: str, setting: str, metric: str) -> Interval | None:
    """A metric (or difference, metric + LESS) with its interval over sessions, both averaged over seeds."""
    mean, half = (summary.interval(group, setting, name) for name in (metric, metric + HALF))
    if mean is None or half is None:
        return None
    return Interval(mean.mean, mean.mean - half.mean, mean.mean + half.mean, mean.n)


def _told(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _day(at_ms: int) -> str:
    return dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC).strftime("%Y-%m-%dT%H:%M")
