"""The report of one experiment: ClickHouse adds up per arm, `serving.experiments.statistics` infers."""

import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from serving.experiments import assignment, statistics
from serving.experiments.statistics import ArmSums, Difference
from streams.records import Experiment

CLICKS: Final = ("click", "like", "purchase")
"""The kinds of action that count as a click: the positive ones of the default rules for the task `click`."""


class UnknownExperiment(LookupError):
    """No such experiment in the logs; the message names those that are there."""


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One arm: what it served, and its CTR with an interval of its own (NaN where it cannot be had)."""

    arm: str
    policy: str
    share: float
    units: int
    impressions: int
    clicks: int
    ctr: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One arm against the control."""

    arm: str
    control: str
    difference: Difference


class AbReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an experiment.

    An impression is an item shown; it is clicked if at least one action of `click_kinds` names its request and item.
    `sample_ratio_p` below `statistics.SRM_THRESHOLD` means that the split is broken and nothing else here should be
    believed. `mixed_units` were seen in more than one arm of this version and count in each: 0 unless assignment
    or logging is broken.
    """

    experiment: str
    version: int
    control: str
    unit_type: str
    click_kinds: tuple[str, ...]
    confidence: float
    since_ms: int | None
    until_ms: int | None
    first_ms: int | None
    last_ms: int | None
    arms: tuple[ArmReport, ...]
    comparisons: tuple[Comparison, ...]
    sample_ratio_p: float
    sample_ratio_ok: bool
    mixed_units: int


def experiments(client: Any) -> list[str]:
    """The names of the experiments in the logs."""
    rows = client.query("SELECT DISTINCT name FROM experiments ORDER BY name").result_rows
    return [name for (name,) in rows]


def ab(
    client: Any,
    experiment: str,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    confidence: float = 0.95,
    click_kinds: Sequence[str] = CLICKS,
    version: int | None = None,
) -> AbReport:
    """Compare the arms of an experiment.

    Args:
        client: A clickhouse_connect client on the logs' database.
        experiment: Its name.
        since_ms: Only impressions from this event time on; their clicks count whenever they came.
        until_ms: Only impressions before this event time.
        confidence: Of all intervals.
        click_kinds: The kinds of action that count as a click.
        version: The definition's version; the newest without. Versions are never added up: their splits differ.

    Raises:
        UnknownExperiment: no definition of that name and version is in the logs.
        ValueError: a confidence outside (0, 1).
    """
    definition = _definition(client, experiment, version)
    window = {
        "experiment": experiment,
        "version": definition.version,
        "since": -(2**62) if since_ms is None else since_ms,
        "until": 2**62 if until_ms is None else until_ms,
    }
    sums, mixed, first_ms, last_ms = _sums(client, window, click_kinds)
    shares = assignment.shares(definition)
    control = sums.get(definition.control, ArmSums())
    p = statistics.sample_ratio({arm: s.units for arm, s in sums.items()}, shares)
    policies = {arm.name: arm.policy for arm in definition.arms}
    names = [*policies, *sorted(set(sums) - set(policies))]
    return AbReport(
        experiment=experiment,
        version=definition.version,
        control=definition.control,
        unit_type=definition.unit_type,
        click_kinds=tuple(click_kinds),
        confidence=confidence,
        since_ms=since_ms,
        until_ms=until_ms,
        first_ms=first_ms,
        last_ms=last_ms,
        arms=tuple(
            _arm(name, policies.get(name, ""), shares.get(name, 0.0), sums.get(name, ArmSums()), confidence)
            for name in names
        ),
        comparisons=tuple(
            Comparison(
                arm=name,
                control=definition.control,
                difference=statistics.difference(sums.get(name, ArmSums()), control, confidence),
            )
            for name in names
            if name != definition.control
        ),
        sample_ratio_p=p,
        sample_ratio_ok=not p < statistics.SRM_THRESHOLD,
        mixed_units=mixed,
    )


def _definition(client: Any, experiment: str, version: int | None) -> Experiment:
    rows = client.query(
        """
        SELECT definition FROM experiments
        WHERE name = {name:String} AND ({version:Int64} < 0 OR version = {version:Int64})
        ORDER BY version DESC, offset DESC LIMIT 1
        """,
        parameters={"name": experiment, "version": -1 if version is None else version},
    ).result_rows
    if not rows:
        wanted = f"`{experiment}`" + ("" if version is None else f" version {version}")
        known = ", ".join(experiments(client)) or "none"
        raise UnknownExperiment(f"experiment {wanted} is not in the logs; known: {known}")
    return msgspec.json.decode(rows[0][0], type=Experiment)


def _sums(
    client: Any, window: dict[str, Any], click_kinds: Sequence[str]
) -> tuple[dict[str, ArmSums], int, int | None, int | None]:
    """(sums by arm, units in several arms, first and last event time in ms), in one pass over the impressions."""
    rows = client.query(
        """
        SELECT arm, count(), sum(c), sum(n), sum(c * c), sum(n * n), sum(n * c),
            countIf(arms_of_unit > 1), min(first_ts), max(last_ts)
        FROM (
            SELECT *, count() OVER (PARTITION BY unit) AS arms_of_unit
            FROM (
                SELECT unit, arm, count() AS n,
                    uniqExactIf((request_id, item), (request_id, item) IN (
                        SELECT request_id, item FROM actions
                        WHERE request_id != '' AND kind IN {kinds:Array(String)}
                    )) AS c,
                    min(ts) AS first_ts, max(ts) AS last_ts
                FROM (
                    SELECT ts, request_id, item, arms.arm[at] AS arm, arms.unit[at] AS unit,
                        indexOf(arms.experiment, {experiment:String}) AS at
                    FROM impressions
                    WHERE at > 0 AND arms.version[at] = {version:Int64}
                        AND ts >= {since:Int64} AND ts < {until:Int64}
                )
                GROUP BY unit, arm
            )
        )
        GROUP BY arm
        """,
        parameters={**window, "kinds": list(click_kinds)},
    ).result_rows
    sums = {arm: ArmSums(units=units, y=y, x=x, yy=yy, xx=xx, xy=xy) for arm, units, y, x, yy, xx, xy, *_ in rows}
    # A unit of two arms stands in the rows of both.
    mixed = max((row[7] for row in rows), default=0)
    first = min((row[8] for row in rows), default=None)
    return sums, mixed, first, max((row[9] for row in rows), default=None)


def _arm(name: str, policy: str, share: float, sums: ArmSums, confidence: float) -> ArmReport:
    low, high = statistics.interval(statistics.ratio(sums), confidence)
    return ArmReport(
        arm=name,
        policy=policy,
        share=share,
        units=sums.units,
        impressions=int(sums.x),
        clicks=int(sums.y),
        ctr=sums.y / sums.x if sums.x else math.nan,
        low=low,
        high=high,
    )
