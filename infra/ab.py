"""`freshet ab`: what the logs say about an experiment, as a table or as JSON."""

import math
import re
import sys
import time
from typing import Annotated, Final

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from infra import settings as settings_module
from infra.console import AsJson, Config, StateDir, actual, out, reported
from infra.settings import Settings, SettingsError
from serving.evaluation.report import AbReport
from serving.experiments.statistics import SRM_THRESHOLD

_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def since_ms(text: str, now_ms: int) -> int:
    """The time that `--since` names: an age such as `90s`, `15m`, `2h` or `7d`, or ms since the epoch.

    Raises:
        SettingsError: neither of the two.
    """
    match = re.fullmatch(r"(\d+)\s*(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise SettingsError(f"--since: {text!r} must be an age as 90s, 15m, 2h, 7d, or milliseconds since the epoch")
    number, unit = int(match[1]), match[2]
    return number if unit is None else now_ms - number * _UNIT_MS[unit]


def click_kinds(settings: Settings, task: str = "click") -> tuple[str, ...]:
    """The kinds of action that the label rules call a positive of `task` whatever their value.

    Raises:
        SettingsError: there is none, so that every CTR would be 0.
    """
    values = {one.name for one in settings.streams.tasks if one.is_value}
    rules = [rule for rule in settings.streams.labels if rule.at_least is None and rule.task not in values]
    kinds = tuple(dict.fromkeys(rule.kind for rule in rules if rule.task == task))
    if not kinds:
        allowed = ", ".join(sorted({rule.task for rule in rules})) or "none by streams.labels"
        raise SettingsError(f"--task: no action is a positive of {task!r} whatever its value; such tasks: {allowed}")
    return kinds


def ab_table(report: AbReport) -> Table:
    """The report for a terminal: a row per arm, the comparison beside the arm that it is about."""
    title = f"{report.experiment}, version {report.version}: CTR per {report.unit_type}"
    table = Table(title=escape(title), caption=_caption(report), caption_justify="left", title_justify="left")
    for name in ("arm", "policy"):
        table.add_column(name)
    level = f"{report.confidence:.0%}"
    for name in ("units", "impressions", "clicks", "CTR", f"difference [{level}]", f"relative [{level}]", "p"):
        table.add_column(name, justify="right")
    compared = {comparison.arm: comparison.difference for comparison in report.comparisons}
    for arm in report.arms:
        row = [
            escape(arm.arm),
            escape(arm.policy),
            f"{arm.units:,}",
            f"{arm.impressions:,}",
            f"{arm.clicks:,}",
            _share(arm.ctr),
        ]
        found = compared.get(arm.arm)
        if found is None:
            table.add_row(*row, "control", "", "")
            continue
        relative = f"{_percent(found.relative)} [{_percent(found.relative_low)}, {_percent(found.relative_high)}]"
        value = f"{_points(found.value)} [{_points(found.low)}, {_points(found.high)}]"
        table.add_row(*row, value, relative, "-" if math.isnan(found.p) else f"{found.p:.2g}")
    return table


def _caption(report: AbReport) -> str:
    p = report.sample_ratio_p
    said = "sample ratio: nothing to check" if math.isnan(p) else f"sample ratio p = {p:.2g}"
    if not report.sample_ratio_ok:
        said += f" < {SRM_THRESHOLD}: the split is broken, do not read the rest"
    lines = [said]
    if report.mixed_units:
        lines.append(f"{report.mixed_units} units were seen in more than one arm")
    lines.append(f"differences in percentage points; clicks: {', '.join(report.click_kinds)}")
    return escape("\n".join(lines))


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3%}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.1%}"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:+.3f}"


def ab_json(report: AbReport | list[AbReport]) -> str:
    """The report as one JSON object, several as an array of them; what cannot be had is null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode()


def reports(
    settings: Settings, experiment: str | None, since: int | None, confidence: float, task: str = "click"
) -> list[AbReport]:
    """The report of one experiment, or of all that are in the logs.

    Args:
        settings: With ClickHouse's actual address.
        experiment: Its name; None means all.
        since: Only impressions from this event time (ms) on.
        confidence: Of the intervals.
        task: Whose positives count as clicks.

    Raises:
        SettingsError: ClickHouse does not answer, there is no such experiment, or a value is out of range.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from serving.evaluation.clickhouse import connect
    from serving.evaluation.report import UnknownExperiment, ab, experiments

    address = settings.serving.clickhouse.address
    if not address:
        raise SettingsError("no ClickHouse is known: run `freshet up`, or set `serving.clickhouse.address`")
    kinds = click_kinds(settings, task)
    try:
        client = connect(settings.serving.clickhouse)
        try:
            names = [experiment] if experiment else experiments(client)
            if not names:
                raise SettingsError("no experiment is in the logs yet")
            return [ab(client, name, since_ms=since, confidence=confidence, click_kinds=kinds) for name in names]
        finally:
            client.close()
    except ClickHouseError as error:
        raise SettingsError(f"{address}: {error}") from error
    except (UnknownExperiment, ValueError) as error:
        raise SettingsError(str(error)) from error


def ab(
    experiment: Annotated[str | None, typer.Argument(help="Its name (default: all in the logs).")] = None,
    config: Config = None,
    state: StateDir = None,
    as_json: AsJson = False,
    since: Annotated[str | None, typer.Option(help="Only impressions this recent: 90s, 15m, 2h, 7d.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals, in (0, 1).")] = 0.95,
    task: Annotated[str, typer.Option(help="Whose positives count as clicks.")] = "click",
) -> None:
    """Compare the arms of an experiment: units, CTR, difference with its interval, sample-ratio check."""
    with reported():
        settings = actual(settings_module.load(config, state))
        at_ms = since_ms(since, time.time_ns() // 1_000_000) if since else None
        found = reports(settings, experiment, at_ms, confidence, task)
        if as_json:
            sys.stdout.write(ab_json(found[0] if experiment else found) + "\n")
            return
        for report in found:
            out.print(ab_table(report))
