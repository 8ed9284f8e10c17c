"""Progressive validation read back: AUC and log loss, or a value's errors, over any set of windows, from sums that
merge."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from online_learning.watching.progressive import auc
from online_learning.watching.value_errors import ValueErrors
from streams.settings import Target


class Auc(msgspec.Struct, frozen=True):
    """The area under the ROC curve; the exact one is within `error` of `value`."""

    value: float
    error: float


class Progressive(msgspec.Struct, frozen=True, kw_only=True):
    """How one learner predicted one task before it learned it; NaN where there is nothing to judge.

    `calibration` is the mean prediction over the share of positives, or over the mean value: 1 is calibrated. A value
    task has `errors` and neither `positives` nor AUC nor log loss.
    """

    learner: str
    task: str
    scene: str | None
    n: int
    positives: int
    auc: Auc
    log_loss: float
    calibration: float
    errors: ValueErrors | None = None


def auc_of_bins(positives: Sequence[int], negatives: Sequence[int]) -> Auc:
    """AUC from the counts of both classes per bin of predicted score, in ascending order.

    Within a bin the order is unknown, so every pair there counts one half, as a tie does (Mann-Whitney). The exact
    AUC may win or lose all of those pairs, which bounds the error by half their share of all pairs.

    Raises:
        ValueError: the two have different numbers of bins.
    """
    if len(positives) != len(negatives):
        raise ValueError(f"`positives` has {len(positives)} bins and `negatives` {len(negatives)}, must be the same")
    pairs = sum(positives) * sum(negatives)
    if not pairs:
        return Auc(math.nan, math.nan)
    tied = sum(p * n for p, n in zip(positives, negatives, strict=True))
    return Auc(auc(positives, negatives), tied / (2 * pairs))


def progressive(
    client: Any,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    skip: float = 0.0,
    by_scene: bool = False,
) -> list[Progressive]:
    """The learners' progressive validation, merged over windows, best AUC (or R2 of values) first within a task.

    A trainer goes on with the window at which its checkpoint was, or with the first one where it is begun anew: what
    older epochs published from that number on is void, whether or not the newer one has come so far.

    Args:
        client: A clickhouse_connect client on the logs' database.
        since_ms: Only windows that end at this event time or later.
        until_ms: Only windows that begin before this event time.
        skip: The share of each learner's predictions at the start of the log that is left out, to whole windows:
            .5 judges the second half.
        by_scene: One row per scene instead of one over all.

    Raises:
        ValueError: `skip` outside [0, 1).
    """
    if not 0 <= skip < 1:
        raise ValueError(f"`skip` == {skip}, must be in [0, 1)")
    scene = "scene" if by_scene else "''"
    rows = client.query(
        f"""
        WITH begun AS (
            SELECT learner, task, scene, epoch, min(window) AS first
            FROM validations GROUP BY learner, task, scene, epoch
        ), until AS (
            -- Where the first of the newer epochs began; none is newer than the newest.
            SELECT learner, task, scene, epoch,
                min(toNullable(first)) OVER (PARTITION BY learner, task, scene ORDER BY epoch DESC
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS void_from
            FROM begun
        ), newest AS (
            -- A window that was published again replaces the first.
            SELECT learner, task, scene, window,
                argMax(tuple(n, positives, log_loss_sum, prediction_sum, bins_positive, bins_negative, first_ts,
                    last_ts, target, label_sum, absolute_error_sum, squared_error_sum, reference_error_sum,
                    if(weight_sum > 0, weight_sum, toFloat64(n))), offset) AS w
            FROM validations INNER JOIN until USING (learner, task, scene, epoch)
            WHERE void_from IS NULL OR window < void_from
            GROUP BY learner, task, scene, window
        ), placed AS (
            SELECT learner, task, scene, w,
                sum(w.1) OVER (PARTITION BY learner, task, scene) AS total,
                sum(w.1) OVER (PARTITION BY learner, task, scene ORDER BY window
                    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) - w.1 AS before
            FROM newest
        )
        SELECT learner, task, {scene} AS part, sum(w.1), sum(w.2), sum(w.3), sum(w.4),
            sumForEach(w.5), sumForEach(w.6), w.9 = '{Target.VALUE}' AS of_value,
            sum(w.14), sum(w.10), sum(w.11), sum(w.12), sum(w.13)
        FROM placed
        WHERE before >= {{skip:Float64}} * total
            AND w.8 >= {{since:Int64}} AND w.7 < {{until:Int64}}
        GROUP BY learner, task, part, of_value
        """,
        parameters={"skip": skip, "since": _since(since_ms), "until": _until(until_ms)},
    ).result_rows
    found = [_progressive(row[0], row[1], row[2] if by_scene else None, *row[3:]) for row in rows]
    return sorted(found, key=lambda p: (p.task, p.scene or "", -_skill(p) if _skill(p) == _skill(p) else math.inf))


def _progressive(
    learner: str,
    task: str,
    scene: str | None,
    n: int,
    positives: int,
    loss: float,
    predicted: float,
    bins_positive: Sequence[int],
    bins_negative: Sequence[int],
    of_value: bool,
    weight: float,
    *sums: float,
) -> Progressive:
    """One row of the query; `weight`: what n predictions stand for; `sums`: of labels, absolute, squared and reference
    errors."""
    errors = ValueErrors(n, *sums) if of_value else None
    happened = positives if errors is None else errors.labels
    return Progressive(
        learner=learner,
        task=task,
        scene=scene,
        n=n,
        positives=positives,
        auc=auc_of_bins(bins_positive, bins_negative) if errors is None else Auc(math.nan, math.nan),
        log_loss=loss / weight if weight and errors is None else math.nan,
        calibration=predicted / happened if happened else math.nan,
        errors=errors,
    )


def _skill(one: Progressive) -> float:
    return one.auc.value if one.errors is None else one.errors.r2


def _since(ms: int | None) -> int:
    return -(2**62) if ms is None else ms


def _until(ms: int | None) -> int:
    return 2**62 if ms is None else ms
