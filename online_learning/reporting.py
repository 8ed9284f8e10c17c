"""What a trainer says of its learning: figures for its health, figures for the metrics topic, and alarms in words."""

import math
from collections.abc import Sequence
from typing import Final

from online_learning.learners import Learners
from online_learning.settings import LearningSettings
from online_learning.watching.alarms import Alarm
from streams.health import Value
from streams.records import Metric

PROCESS: Final = "trainer"
# So long is said that examples were refused, after the last one.
_REFUSED_MS: Final = 60_000


def health_values(learners: Learners, settings: LearningSettings, now_ms: int, not_kept: str = "") -> dict[str, Value]:
    """`alarm` (what is wrong now, in words, or ""), `drift_TASK` (ms at which the online learner's newest drift began,
    0 for never), `calibration_TASK_LEARNER`, `learning_rate_PART`, `refused`, `refused_steps`,
    `sampled`, `retrieval_loss` and `retrieval_refused` (of the towers) and the sizes of `LearningHealth`. `not_kept`:
    see `alarm_text`."""
    values: dict[str, Value] = {"alarm": alarm_text(learners, now_ms, not_kept), "refused": learners.counters.refused}
    values["refused_steps"] = learners.online.health.refused_steps
    for task in learners.tasks:
        values[f"drift_{task}"] = learners.drift.last_ms(learners.online.name, task)
    for (learner, task), ratio in learners.calibration.ratios().items():
        values[f"calibration_{task}_{learner}"] = round(ratio, 4)
    values |= {f"learning_rate_{part}": rate for part, rate in _learning_rates(learners, settings).items()}
    values["sampled"] = learners.counters.sampled
    figures = {**_retrieval(learners), **learners.online.health.figures()}
    return values | {name: round(value, 5) for name, value in figures.items()}


def alarm_text(learners: Learners, now_ms: int, not_kept: str = "") -> str:
    """What needs a person's eye: drifts of the online learner that stand, examples refused of late, and why the newest
    checkpoint was not kept (`not_kept`); else ""."""
    standing = learners.drift.standing()
    others = {
        task: [one.learner for one in standing if one.task == task and one.scene is None] for task in learners.tasks
    }
    words = [
        drift_text(one, [name for name in others[one.task] if name != one.learner] if one.scene is None else ())
        for one in standing
        if one.learner == learners.online.name
    ]
    if learners.refused_at_ms and now_ms - learners.refused_at_ms < _REFUSED_MS:
        words.append(f"{learners.counters.refused} examples were refused: their gradients are not finite")
    if not_kept:
        words.append(f"the newest checkpoint failed: {not_kept}")
    return "; ".join(words)


def drift_text(alarm: Alarm, others: Sequence[str] = ()) -> str:
    """An alarm in words; `others` drift at the same time, which tells a change of the world from one of the model."""
    also = f" (of {' and '.join(others)} too)" if others else ""
    where = f" in scene {alarm.scene!r}" if alarm.scene else " without a scene" if alarm.scene == "" else ""
    rise = f"went up from {alarm.before:.3f} to {alarm.after:.3f} nats"
    return f"{alarm.task}{where}: the {alarm.error} of {alarm.learner} {rise}{also}"


def drift_metrics(alarms: Sequence[Alarm]) -> list[Metric]:
    """One `drift` per alarm that began, with the labels task, learner and, where it is of one, scene; the value is the
    rise of the log loss, or of a value task's log error."""
    return [
        Metric(
            process=PROCESS,
            name="drift",
            ts=one.at_ms,
            value=one.after - one.before,
            labels={"task": one.task, "learner": one.learner} | ({} if one.scene is None else {"scene": one.scene}),
        )
        for one in alarms
    ]


def metrics(learners: Learners, settings: LearningSettings, now_ms: int) -> list[Metric]:
    """`calibration` per task and learner; `learning_rate` of rows and network, and of the towers' rows; `refused_share`
    of what was to be learned since the start of the log; `retrieval_loss` and `retrieval_refused` of towers; the sizes
    of `LearningHealth`."""
    found = [
        Metric(process=PROCESS, name="calibration", ts=now_ms, value=ratio, labels={"task": task, "learner": learner})
        for (learner, task), ratio in learners.calibration.ratios().items()
    ]
    for part, rate in _learning_rates(learners, settings).items():
        found.append(Metric(process=PROCESS, name="learning_rate", ts=now_ms, value=rate, labels={"part": part}))
    counters = learners.counters
    share = counters.refused / max(counters.learned + counters.refused, 1)
    figures = {"refused_share": share, **_retrieval(learners), **learners.online.health.figures()}
    return found + [Metric(process=PROCESS, name=name, ts=now_ms, value=value) for name, value in figures.items()]


def _learning_rates(learners: Learners, settings: LearningSettings) -> dict[str, float]:
    """By what is learned: rows, network and, where there are some, the towers' rows."""
    rates = {"rows": settings.sparse_learning_rate, "network": settings.model.dense_learning_rate}
    return rates if learners.online.towers is None else rates | {"towers": settings.retrieval.learning_rate}


def _retrieval(learners: Learners) -> dict[str, float]:
    """Of the towers, where there are some: batches passed over, and once they have learned, the loss."""
    towers = learners.online.towers
    if towers is None:
        return {}
    refused = {"retrieval_refused": float(towers.refused)}
    return refused if math.isnan(towers.loss) else refused | {"retrieval_loss": towers.loss}
