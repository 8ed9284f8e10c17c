"""The scale of values: statistics of the newest labels, standard scores of their logs, and means that agree."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.batches import Batch
from online_learning.learner import OnlineLearner
from online_learning.models.dense_features import dense_names
from online_learning.models.fields import FieldEncoder
from online_learning.models.parameters import ShapeMismatch
from online_learning.models.values import VALUES, value_columns, values_of
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings
from online_learning.table.version import pack_version
from online_learning.value_scale import NEWEST, RIDGE, WINDOW, Line, ScaleState, ValueScale
from streams.settings import MOST_VALUE, Target, TaskSettings

CLICK = TaskSettings(name="click", shown_is_negative=True)
DWELL = TaskSettings(name="dwell", target=Target.VALUE)
FIELDS = (FieldSettings(name="user", side="user", source="id"), FieldSettings(name="item", side="item", source="id"))
SETTINGS = LearningSettings(tasks=(CLICK, DWELL), model=ModelSettings(dim=4, hidden=(8,), fields=FIELDS))

values = st.lists(st.one_of(st.floats(0, 1e4), st.floats(0, MOST_VALUE), st.just(0.0)), min_size=1, max_size=50)


def column(numbers: list[float]) -> np.ndarray:
    return np.array(numbers)[:, None]


@given(values)
def test_mean_and_deviation_are_numpys_of_the_logs(labels: list[float]):
    scale, logs = ValueScale(1), np.log1p(labels)
    scale.add(column(labels), np.zeros((len(labels), 1)))
    scores = scale.scores(column(labels))[:, 0]
    deviation = max(float(logs.std()), 1e-3)
    np.testing.assert_allclose(scores, (logs - logs.mean()) / deviation, rtol=1e-3, atol=1e-3)


@given(values, st.lists(st.floats(-5, 5), min_size=50, max_size=50))
def test_predictions_are_values_whatever_is_said(labels: list[float], logits: list[float]):
    scale = ValueScale(1)
    scale.add(column(labels), column(logits[: len(labels)]))
    # An f32 may lie just above.
    said = values_of(column([*logits, 1e30, -1e30]).astype(np.float32), scale.parameters)
    assert ((said >= 0) & (said <= MOST_VALUE * (1 + 1e-5))).all()


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=NEWEST))
def test_a_line_is_the_ridge_regression_of_scores_on_outputs(pairs: list[tuple[float, float]]):
    line, (outputs, scores) = Line(), np.array(pairs).T
    for output, score in pairs:
        line.add(output, score)
    off = outputs - outputs.mean()
    slope = max(float(off @ (scores - scores.mean())), 0.0) / (float(off @ off) + RIDGE)
    assert line.slope == pytest.approx(slope, abs=1e-9)
    assert line.at(2.0) == pytest.approx(scores.mean() + slope * (2.0 - outputs.mean()), abs=1e-9)


def test_an_output_counts_for_as_much_as_it_has_said():
    random = np.random.default_rng(0)
    score = random.normal(0, 1, (2 * NEWEST, 1))
    labels = np.exp(3.0 + 0.5 * score) - 1
    for name, output, stretched in (
        ("nothing at all", np.zeros_like(score), 0.0),
        ("noise", random.normal(0, 1, score.shape), 0.0),
        ("the opposite", -score, 0.0),
        ("half of it and shifted", 1.5 + 0.5 * score, 2.0),
        ("twice of it", 2.0 * score, 0.5),
    ):
        scale = ValueScale(1)
        scale.add(labels, output)
        assert scale.parameters[0, 1] == pytest.approx(0.5 * stretched, abs=0.1), name
        said = values_of(output[-NEWEST:].astype(np.float32), scale.parameters)
        assert said.mean() == pytest.approx(labels[-NEWEST:].mean(), rel=0.1), name


def test_what_is_not_told_or_not_a_number_teaches_nothing():
    one, other = ValueScale(2), ValueScale(2)
    one.add(np.array([[3.0, np.nan], [np.nan, 7.0], [4.0, 8.0]]), np.array([[0.0, np.nan], [1.0, np.nan], [0.5, 0.5]]))
    other.add(np.array([[3.0, 8.0], [4.0, np.nan]]), np.array([[0.0, 0.5], [0.5, 0.0]]))
    np.testing.assert_array_equal(one.parameters, other.parameters)


def test_a_mean_of_logs_is_smeared_into_a_mean():
    """Lognormal labels about which nothing is known but their logs' mean: the raw prediction would be the median."""
    random = np.random.default_rng(0)
    labels, scale = random.lognormal(3.0, 1.0, (4 * NEWEST, 1)), ValueScale(1)
    scale.add(labels, np.zeros_like(labels))
    said = values_of(np.zeros((1, 1), np.float32), scale.parameters)[0, 0]
    assert np.median(labels) * 1.3 < said
    # What the newest labels say, which is known to 4% of a mean whose deviation is 1.3 of it.
    assert said == pytest.approx(labels.mean(), rel=0.15)


def test_new_habits_are_followed():
    scale = ValueScale(1)
    scale.add(np.full((WINDOW, 1), 10.0), np.zeros((WINDOW, 1)))
    scale.add(np.full((3 * WINDOW, 1), 1_000.0), np.zeros((3 * WINDOW, 1)))
    assert scale.scores(column([1_000.0]))[0, 0] < 0.5
    assert np.expm1(scale.parameters[0, 0]) == pytest.approx(1_000.0, rel=0.3)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=30)
def test_batches_do_not_matter_and_a_restart_changes_nothing(sizes: list[int], seed: int):
    random = np.random.default_rng(seed)
    labels, logits = random.exponential(20.0, (sum(sizes), 2)), random.normal(0, 1, (sum(sizes), 2))
    whole, parts, start = ValueScale(2), ValueScale(2), 0
    whole.add(labels, logits)
    for size in sizes:
        parts.add(labels[start : start + size], logits[start : start + size])
        start += size
        kept = msgspec.json.encode(parts.state())
        parts = ValueScale(2)
        parts.restore(msgspec.json.decode(kept, type=ScaleState))
    # Each column's numbers go in order, whatever the other's do.
    np.testing.assert_array_equal(whole.parameters, parts.parameters)
    with pytest.raises(ValueError, match="of 2 value tasks, must be of 1"):
        ValueScale(1).restore(parts.state())


def test_what_an_older_version_kept_is_read():
    scale = ValueScale(1)
    scale.add(column([3.0, 4.0]), column([0.0, 0.1]))
    kept = msgspec.to_builtins(scale.state())
    assert kept.pop("lines")
    again = ValueScale(1)
    again.restore(msgspec.convert(kept, ScaleState))
    assert again.scores(column([3.5])) == scale.scores(column([3.5]))
    again.add(column([5.0]), column([0.2]))


# --- in the learner ------------------------------------------------------------------------------------------------


def batch(users: np.ndarray, items: np.ndarray) -> Batch:
    encoder = FieldEncoder(SETTINGS.model)
    names = [f"i{item}" for item in items.tolist()]
    side = encoder.combine(
        [encoder.user_bags(f"u{user}", None, [], "", None) for user in users.tolist()], map(encoder.item_bags, names)
    )
    return Batch(side, np.zeros((len(users), len(dense_names(SETTINGS.model))), np.float32), names)


def learn(learner: OnlineLearner, step: int, rows: Batch, dwell: np.ndarray, revised: np.ndarray | None = None) -> None:
    labels = np.stack([np.full(rows.rows, np.nan), dwell], axis=1).astype(np.float32)
    before = None if revised is None else np.stack([np.full(rows.rows, np.nan), revised], axis=1).astype(np.float32)
    learner.learn(rows, labels, np.ones_like(labels), step, pack_version(1, step), revised=before)


def test_it_learns_who_stays_where_in_seconds_and_a_probability_beside_it():
    learner, random = OnlineLearner(SETTINGS), np.random.default_rng(0)
    for step in range(1, 150):
        users, items = random.integers(0, 6, (2, 64))
        truth = np.where((users + items) % 2 == 0, 60.0, 5.0)
        learn(learner, step, batch(users, items), truth * random.lognormal(0.0, 0.3, 64))
    users, items = np.divmod(np.arange(36), 6)
    said = learner.predict(batch(users, items))
    fits = (users + items) % 2 == 0
    assert said[fits, 1] == pytest.approx(60.0, rel=0.3)
    assert said[~fits, 1] == pytest.approx(5.0, rel=0.5)
    assert ((said[:, 0] > 0) & (said[:, 0] < 1)).all()
    assert learner.dense_parameters()[VALUES].shape == (1, 2)


def test_a_revised_value_takes_the_first_ones_place():
    """One learner heard the truth at once, one of 5 seconds first and each time of the truth after it."""
    learners, random = [OnlineLearner(SETTINGS) for _ in range(2)], np.random.default_rng(0)
    for step in range(1, 150):
        users, items = random.integers(0, 6, (2, 64))
        rows, truth = batch(users, items), np.where((users + items) % 2 == 0, 60.0, 20.0)
        learn(learners[0], step, rows, truth)
        first = truth * random.lognormal(0.0, 0.2, 64)
        learn(learners[1], 2 * step - 1, rows, first)
        learn(learners[1], 2 * step, rows, truth, revised=first)
    users, items = np.divmod(np.arange(36), 6)
    at_once, revised = (one.predict(batch(users, items))[:, 1] for one in learners)
    np.testing.assert_allclose(at_once, revised, rtol=0.35)


def test_a_checkpoint_of_other_value_tasks_is_refused():
    learner = OnlineLearner(SETTINGS)
    learn(learner, 1, batch(np.arange(4), np.arange(4)), np.arange(4.0))
    kept = learner.table.snapshot(whole=True), learner.dense_parameters(), learner.optimizer_state()
    binary = msgspec.structs.replace(SETTINGS, tasks=(CLICK, TaskSettings(name="dwell")))
    with pytest.raises(ShapeMismatch, match="`values` is unknown"):
        OnlineLearner(binary).restore(*kept)
    learner = OnlineLearner(binary)
    kept = learner.table.snapshot(whole=True), learner.dense_parameters(), learner.optimizer_state()
    with pytest.raises(ShapeMismatch, match="`values` is missing"):
        OnlineLearner(SETTINGS).restore(*kept)


def test_without_value_tasks_nothing_is_kept_or_published_of_them():
    binary = msgspec.structs.replace(SETTINGS, tasks=(CLICK, TaskSettings(name="rating")))
    assert value_columns(binary.tasks) == ()
    assert VALUES not in OnlineLearner(binary).dense_parameters()
    assert b"values" not in OnlineLearner(binary).optimizer_state()
