"""The health of learning: what is not finite reaches nothing, is counted and said; sizes are those of the arrays."""

import numpy as np
import pytest

from online_learning.batches import Batch, Batcher
from online_learning.catalogue import Catalogue
from online_learning.learner import OnlineLearner
from online_learning.models.fields import FieldEncoder
from online_learning.reporting import alarm_text, drift_metrics, health_values, metrics
from online_learning.table.version import pack_version
from online_learning.watching.learning_health import GRADIENT_LIMIT, LearningHealth, sound_rows
from tests.unit.online_learning.test_learners import NOW, SETTINGS, example, impression, learners

ROWS = 48


def batch(first: int, rows: int = ROWS) -> Batch:
    catalogue = Catalogue()
    batcher = Batcher(FieldEncoder(SETTINGS.model, catalogue.item), catalogue)
    return batcher.of_examples([example(first + number, 0, 1.0) for number in range(rows)])


def answers(first: int, rows: int = ROWS) -> np.ndarray:
    return (np.random.default_rng(first).random((rows, 2)) < 0.4).astype(np.float32)


def learn(learner: OnlineLearner, what: Batch, labels: np.ndarray, step: int) -> np.ndarray:
    return learner.learn(what, labels, np.ones_like(labels), step, pack_version(1, step))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 1e30])
def test_an_example_whose_gradient_is_not_finite_reaches_neither_rows_nor_network(poison: float):
    """The learner that met it is bit for bit the one that never did."""
    met, spared = OnlineLearner(SETTINGS), OnlineLearner(SETTINGS)
    good = np.flatnonzero(~np.isin(np.arange(ROWS), [5, 17]))
    for step in range(1, 6):
        poisoned, labels = batch(step), answers(step)
        # Rows are made before gradients are known, and are the same whenever they are made.
        for learner in (met, spared):
            learner.table.find_or_insert(poisoned.side.keys, poisoned.side.spaces, step, pack_version(1, step))
        assert learn(spared, poisoned.take(good), labels[good], step).all()
        poisoned.dense[[5, 17], 1] = poison
        assert np.flatnonzero(~learn(met, poisoned, labels, step)).tolist() == [5, 17]
    for name, value in spared.dense_parameters().items():
        np.testing.assert_array_equal(met.dense_parameters()[name], value)
    keys = np.unique(np.concatenate([batch(step).side.keys for step in range(1, 6)]))
    rows = [learner.table.gather(learner.table.find(keys)).copy() for learner in (met, spared)]
    np.testing.assert_array_equal(*rows)
    assert np.isfinite(rows[0]).all()


def test_an_example_that_is_refused_makes_nobody_of_its_batch_seen_twice():
    met, spared = OnlineLearner(SETTINGS), OnlineLearner(SETTINGS)
    poisoned = batch(1)
    learn(spared, poisoned, answers(1), 1)
    poisoned.dense[5, 1] = np.nan
    assert not learn(met, poisoned, answers(1), 1).all()
    marks = [learner.table.snapshot().arrays["marks"] for learner in (met, spared)]
    np.testing.assert_array_equal(*marks)


def test_a_batch_that_is_all_bad_changes_nothing_and_the_next_is_learned():
    learner = OnlineLearner(SETTINGS)
    learn(learner, batch(1), answers(1), 1)
    before = learner.dense_parameters()
    bad = batch(2)
    bad.dense[:, 0] = np.nan
    assert not learn(learner, bad, answers(2), 2).any()
    for name, value in before.items():
        np.testing.assert_array_equal(learner.dense_parameters()[name], value)
    assert learn(learner, batch(3), answers(3), 3).all()
    assert learner.health.refused_steps == 0
    assert learner.health.figures()["gradient_norm"] > 0


def test_a_step_whose_gradients_overflow_together_is_not_taken():
    learner = OnlineLearner(SETTINGS)
    learn(learner, batch(1, 8), answers(1, 8), 1)
    next(learner.model.parameters()).grad.fill_(np.inf)
    before = learner.dense_parameters()
    learn(learner, batch(2, 64), answers(2, 64), 2)
    assert learner.health.refused_steps == 1
    for name, value in before.items():
        np.testing.assert_array_equal(learner.dense_parameters()[name], value)
    learn(learner, batch(3, 64), answers(3, 64), 3)
    assert learner.health.refused_steps == 1
    assert all(np.isfinite(value).all() for value in learner.dense_parameters().values())
    assert any((learner.dense_parameters()[name] != value).any() for name, value in before.items())


def test_rows_are_sound_where_their_gradients_and_their_squares_are_finite():
    gradients = np.zeros((4, 2, 3), dtype=np.float32)
    gradients[1, 0, 2], gradients[2, 1, 0], gradients[3, 1, 1] = np.nan, -2 * GRADIENT_LIMIT, -1.0
    dense = np.zeros((4, 5), dtype=np.float32)
    assert sound_rows(1.0, gradients, dense).tolist() == [True, False, False, True]
    assert sound_rows(np.nan, gradients, dense).tolist() == [True, False, False, True]
    assert not sound_rows(np.inf, gradients[[0, 3]], dense[[0, 3]]).any()
    dense[3, 4] = 2 * GRADIENT_LIMIT
    assert sound_rows(1.0, gradients, dense).tolist() == [True, False, False, False]


def test_sizes_are_those_of_the_newest_steps():
    health = LearningHealth()
    assert health.figures() == {}
    for step in range(40):
        health.stepped(1.0 if step < 8 else 2.0, 0.5)
        health.touched(np.array([[9.0, 3.0, 4.0]] * 99 + [[9.0, 30.0, 40.0]], dtype=np.float32))
    figures = health.figures()
    assert (figures["gradient_norm"], figures["step_norm"]) == (2.0, 0.5)
    assert figures["embedding_norm_mean"] == pytest.approx(5.45)
    assert 5.0 <= figures["embedding_norm_p99"] <= 50.0


def test_refused_examples_are_counted_said_and_spoil_no_learner():
    these = learners()
    for number in range(1, 30):
        these.see([impression(number)], NOW)
        these.learn([example(number, 0, 1.0), example(number, 1, 0.0)], 1_000, pack_version(1, number))
    assert health_values(these, SETTINGS, 1_000)["alarm"] == ""
    bad = example(99, 0, 0.0, negative_rate=float("nan"))
    these.learn([bad, example(50, 0, 1.0)], 2_000, pack_version(1, 50))
    assert (these.counters.refused, these.counters.learned) == (1, 59)
    assert "1 examples were refused" in alarm_text(these, 3_000)
    assert alarm_text(these, 10_000_000) == ""
    figures = these.progressive.figures() | {m.name: m.value for m in metrics(these, SETTINGS, 3_000)}
    assert figures["refused_share"] == pytest.approx(1 / 60)
    assert all(np.isfinite(value) for value in figures.values())
    these.see([impression(60)], NOW)
    (_, newest) = list(these.predictions.items())[-1]
    assert np.isfinite(these.predictions.probabilities(newest)).all()


def test_the_learning_rates_are_said_in_health_as_on_the_metrics_topic():
    these = learners()
    said = {m.labels["part"]: m.value for m in metrics(these, SETTINGS, 0) if m.name == "learning_rate"}
    assert said == {"rows": SETTINGS.sparse_learning_rate, "network": SETTINGS.model.dense_learning_rate}
    values = health_values(these, SETTINGS, 0)
    assert {part: values[f"learning_rate_{part}"] for part in said} == said


def test_a_drift_is_said_in_health_and_on_the_metrics_topic():
    these, random = learners(), np.random.default_rng(0)
    said = np.full((4_000, 3, 2), 0.1, dtype=np.float32)
    labels = np.full((4_000, 2), np.nan, dtype=np.float32)
    labels[:, 0] = random.random(4_000) < np.where(np.arange(4_000) < 3_000, 0.1, 0.4)
    for start in range(0, 4_000, 50):
        these.drift.add(said[start : start + 50], labels[start : start + 50], start)
    values = health_values(these, SETTINGS, 4_000)
    assert "click: the log loss of online went up from" in values["alarm"]
    assert "(of river and popularity too)" in values["alarm"]
    assert 3_000 <= values["drift_click"] < 4_000
    assert values["drift_rating"] == 0
    found = drift_metrics(these.drift.take_begun())
    assert [one.labels for one in found] == [{"task": "click", "learner": name} for name in these.drift.learners]
    assert all(one.name == "drift" and one.value > 0 for one in found)
