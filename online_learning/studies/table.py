"""The table of a study in Markdown: a row per group and setting, each mean with its interval and paired difference."""

from collections.abc import Mapping

from online_learning.studies.intervals import Interval
from online_learning.studies.study import Study
from online_learning.studies.summary import Summary


def markdown(study: Study, summary: Summary, head: Mapping[str, str]) -> str:
    """The whole page: title, question, what follows from the figures, table, notes, and how it was measured."""
    metrics = [metric for metric in study.metrics if metric in summary.metrics] or summary.metrics
    lines = [f"# {study.title}", "", study.question, ""]
    for finding in study.findings(summary):
        lines += [f"- {finding}"]
    lines += [""] if lines[-1] else []
    lines += _rows(study, summary, metrics)
    lines += ["", _legend(study, summary), ""]
    lines += [f"- {note}" for note in study.notes]
    lines += [""] if lines[-1] else []
    told = {"seeds": ", ".join(map(str, summary.seeds)), **head}
    lines += [f"- {name}: {value}" for name, value in told.items() if value]
    return "\n".join(lines) + "\n"


def number(value: float, digits: int) -> str:
    """Whole numbers and counts without digits behind the point, the rest with `digits`."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.{digits}f}"


def with_interval(interval: Interval, digits: int, *, signed: bool = False) -> str:
    """`mean ± half`, or the mean alone where there is no interval or no spread."""
    mean = f"{interval.mean:+.{digits}f}" if signed else number(interval.mean, digits)
    return f"{mean} ± {number(interval.half, digits)}" if interval.half > 0 else mean


def _rows(study: Study, summary: Summary, metrics: list[str]) -> list[str]:
    compared = {metric for metric in metrics if study.baseline and metric not in study.plain}
    heads = ["group", "setting", "seeds"]
    for metric in metrics:
        heads += [metric, "Δ"] if metric in compared else [metric]
    rows = ["| " + " | ".join(heads) + " |", "|---|---|" + "--:|" * (len(heads) - 2)]
    for group in summary.groups:
        for setting in summary.settings(group):
            seeds = max(len(summary.values(group, setting, metric)) for metric in metrics)
            cells = [group, setting, str(seeds)]
            for metric in metrics:
                value = summary.interval(group, setting, metric)
                if metric in study.plain:
                    cells.append(_described(value))
                    continue
                cells.append(with_interval(value, study.digits) if value else "")
                if metric in compared:
                    change = summary.difference(group, setting, metric)
                    cells.append(with_interval(change, study.digits, signed=True) if change else "")
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def _described(value: Interval | None) -> str:
    """A figure that describes its setting: three digits say enough."""
    if value is None:
        return ""
    return f"{value.mean:,.0f}" if abs(value.mean) >= 100 else f"{value.mean:.3g}"


def _legend(study: Study, summary: Summary) -> str:
    text = "Means over seeds ± half of the 95% t interval."
    if study.baseline:
        text += f" Δ: difference to `{study.baseline}` of the same group, paired by seed, ± half of its 95% t interval."
    return text
