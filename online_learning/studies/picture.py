"""The default picture of a study: a panel per group, the first metric with its intervals."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from online_learning.studies.intervals import Interval
from online_learning.studies.study import Study
from online_learning.studies.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(figure: "Figure", study: Study, summary: Summary) -> None:
    """One panel per group: means with error bars over the settings' x, or over their names where they have none."""
    metric = next((metric for metric in study.metrics if metric in summary.metrics), summary.metrics[0])
    axes = figure.subplots(1, len(summary.groups), squeeze=False)[0]
    for panel, group in zip(axes, summary.groups, strict=True):
        _panel(panel, study, summary, group, metric)
    axes[0].set_ylabel(f"{metric}, difference to {study.baseline}" if study.differences else metric)
    figure.suptitle(study.title, fontsize=11)


def error_bars(panel: "Axes", places: Sequence[float], intervals: Sequence[Interval], label: str = "") -> None:
    """Means at their places with 95% intervals, where there are any."""
    halves = [0.0 if math.isnan(one.half) else one.half for one in intervals]
    means = [one.mean for one in intervals]
    panel.errorbar(list(places), means, yerr=halves, fmt="o-", capsize=3, markersize=4, linewidth=1, label=label)


def _shown(study: Study, summary: Summary, group: str, setting: str, metric: str) -> Interval | None:
    if study.differences:
        return summary.difference(group, setting, metric)
    return summary.interval(group, setting, metric)


def _panel(panel: "Axes", study: Study, summary: Summary, group: str, metric: str) -> None:
    measured = [(setting, _shown(study, summary, group, setting, metric)) for setting in summary.settings(group)]
    settings = [(setting, interval) for setting, interval in measured if interval is not None]
    xs = [summary.x(group, setting) for setting, _ in settings]
    places = [x for x in xs if x is not None]
    intervals = [interval for _, interval in settings]
    if settings and len(places) == len(settings):
        error_bars(panel, places, intervals)
        panel.set_xlabel(study.x_label)
        if study.x_log:
            panel.set_xscale("log")
    else:
        error_bars(panel, range(len(settings)), intervals)
        panel.lines[0].set_linestyle("none")
        panel.set_xticks(range(len(settings)), [setting for setting, _ in settings], rotation=30, ha="right")
    if study.differences:
        panel.axhline(0.0, color="grey", linewidth=0.8, linestyle="--")
    panel.set_title(group, fontsize=10)
    panel.grid(alpha=0.3)
