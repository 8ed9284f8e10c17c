"""What the demo measured, and what of it was asked."""

import numpy as np
from msgspec import Struct

from infra.figures import Report
from serving.evaluation.progressive import Progressive
from serving.evaluation.queries import Count
from serving.evaluation.report import AbReport
from serving.experiments.statistics import SRM_THRESHOLD
from serving.probe import FreshnessReport
from streams.simulation.tally import Snapshot


class Measured(Struct, frozen=True, kw_only=True):
    """One run. `kafka` counts committed records by topic, `clickhouse` by table; `examples_wrong` are those whose last
    revision is not what the reference join gives, `examples_repeated` are revisions that came out twice."""

    malformed: int
    replayed: int
    kafka: dict[str, int]
    clickhouse: dict[str, Count]
    examples: int
    examples_expected: int
    examples_wrong: int
    examples_repeated: int
    learners: tuple[Progressive, ...]
    freshness: FreshnessReport
    recommend_ms: tuple[float, ...]
    snapshot: Snapshot
    ab: AbReport


def fill(report: Report, measured: Measured) -> None:
    """Adds every figure of the demo to the report."""
    _accounting(report, measured)
    for learner in measured.learners:
        measure, value, note = "AUC", learner.auc.value, f"log loss {learner.log_loss:.3f}"
        if (errors := learner.errors) is not None:
            measure, value, note = "R2", errors.r2, f"MAE {errors.mae:.3g}, RMSE {errors.rmse:.3g}"
        name = f"progressive {measure}, {learner.scene} {learner.task}, {learner.learner}"
        report.add(name, value, "", note=f"{note} over {learner.n:,} predictions")
    freshness, took_ms = measured.freshness, measured.recommend_ms
    report.add("freshness p50: click -> answer that contains it", freshness.percentile("total_ms", 50), "ms")
    report.add("freshness p99", freshness.percentile("total_ms", 99), "ms", at_most=2_000)
    report.add("freshness probes lost", freshness.lost, "", equals=0)
    report.add("recommend p50", float(np.percentile(took_ms, 50)), "ms", note="as the simulated user waits for it")
    report.add("recommend p99", float(np.percentile(took_ms, 99)), "ms")
    report.add("requests without an answer", measured.snapshot.failed, "")
    _experiment(report, measured.ab)


def _accounting(report: Report, measured: Measured) -> None:
    kafka, stored = measured.kafka, measured.clickhouse
    events = kafka.get("events", 0)
    actions = kafka.get("actions", 0)
    report.add("events in", events, "", note=f"{measured.replayed:,} real, the rest simulated and probes")
    report.add("dead letters", kafka.get("dead-letters", 0), "", equals=measured.malformed)
    report.add("actions in Kafka", actions, "", equals=events - measured.malformed)
    report.add("actions in ClickHouse", stored["actions"].records, "", equals=actions)
    report.add("impressions in ClickHouse", stored["impressions"].records, "", equals=kafka.get("impressions", 0))
    report.add("rows stored twice", sum(count.doubles for count in stored.values()), "", equals=0)
    report.add("examples", measured.examples, "", equals=measured.examples_expected, note="= the reference join")
    report.add("examples that the reference join gives otherwise", measured.examples_wrong, "", equals=0)
    report.add("examples that came out twice", measured.examples_repeated, "", equals=0)


def _experiment(report: Report, ab: AbReport) -> None:
    for arm in ab.arms:
        note = f"[{arm.low:.2%}, {arm.high:.2%}], {arm.units:,} units, {arm.impressions:,} impressions"
        report.add(f"CTR, {arm.arm}", arm.ctr, "", note=note)
    for comparison in ab.comparisons:
        difference = comparison.difference
        name = f"CTR difference, {comparison.arm} - {comparison.control}"
        report.add(f"{name}, {ab.confidence:.0%} low", difference.low, "", at_least=0.0)
        report.add(f"{name}, {ab.confidence:.0%} high", difference.high, "")
    report.add("sample ratio p", ab.sample_ratio_p, "", at_least=SRM_THRESHOLD)
