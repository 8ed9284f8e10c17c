"""Labels by rule, and the share of negatives that is kept."""

import pytest

from streams.labels import LabelRules, negative_kept
from streams.settings import LabelRule, StreamsSettings, Target, TaskSettings

DEFAULT = LabelRules(StreamsSettings().tasks, StreamsSettings().labels)


@pytest.mark.parametrize(
    "kind, value, labels",
    [
        ("click", None, {"click": 1.0}),
        ("purchase", 9.5, {"click": 1.0}),
        ("rating", 4.0, {"rating": 1.0}),
        ("rating", 3.9, {"rating": 0.0}),
        ("rating", None, {}),
        ("view", None, {}),
    ],
)
def test_the_default_rules(kind: str, value: float | None, labels: dict[str, float]) -> None:
    assert DEFAULT.labels(kind, value) == labels


def test_one_kind_may_label_several_tasks_and_a_one_wins() -> None:
    rules = LabelRules(
        [TaskSettings(name="a", shown_is_negative=True), TaskSettings(name="b")],
        [
            LabelRule(task="a", kind="dwell", at_least=10.0),
            LabelRule(task="a", kind="dwell", at_least=2.0),
            LabelRule(task="b", kind="dwell", at_least=10.0),
        ],
    )
    assert rules.labels("dwell", 5.0) == {"a": 1.0, "b": 0.0}
    assert (rules.tasks, rules.shown_is_negative) == (("a", "b"), ("a",))


@pytest.mark.parametrize(
    "kind, value, labels",
    [
        ("dwell", 12.5, {"stay": 12.5}),
        ("dwell", 0.0, {"stay": 0.0}),
        ("dwell", None, {}),
        ("dwell", -1.0, {}),
        ("dwell", 2e12, {}),
        ("purchase", 30.0, {"stay": 30.0, "click": 1.0}),
        ("purchase", None, {"click": 1.0}),
        ("click", 30.0, {"click": 1.0}),
    ],
)
def test_the_label_of_a_value_task_is_the_value(kind: str, value: float | None, labels: dict[str, float]) -> None:
    rules = LabelRules(
        [TaskSettings(name="click"), TaskSettings(name="stay", target=Target.VALUE)],
        [
            LabelRule(task="click", kind="click"),
            LabelRule(task="click", kind="purchase"),
            LabelRule(task="stay", kind="dwell"),
            LabelRule(task="stay", kind="purchase"),
        ],
    )
    assert rules.labels(kind, value) == labels
    assert rules.has_positive(labels) == ("click" in labels)
    # A second of dwell is no positive.
    assert not rules.has_positive(rules.labels("dwell", 1.0))


def test_the_kept_share_is_the_rate_and_nested() -> None:
    ids = [f"r{n}/{n % 10}" for n in range(20_000)]
    kept = {rate: {one for one in ids if negative_kept(one, rate)} for rate in (0.1, 0.5, 1.0)}
    assert kept[0.1] < kept[0.5] < kept[1.0] == set(ids)
    # Four standard deviations of a binomial.
    assert abs(len(kept[0.1]) - 2_000) < 170
    assert abs(len(kept[0.5]) - 10_000) < 283
