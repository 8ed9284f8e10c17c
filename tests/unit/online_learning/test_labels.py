"""Labels: each is learned once, negatives weigh what they stand for, and a fake negative is made good."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_learning.labels import MAX_WEIGHT, Targets, is_learned, targets
from online_learning.predictions import Remembered
from streams.labels import negative_kept
from streams.records import SCHEMA_VERSION, Assignment, Example, Label, LabelState
from streams.settings import JoinSettings

TASKS = ("click", "rating")


def example(click: float | None = None, rating: float | None = None, **more: object) -> Example:
    observed = {name: value for name, value in (("click", click), ("rating", rating)) if value is not None}
    labels = {
        name: Label(LabelState.OBSERVED, observed[name]) if name in observed else Label(LabelState.PENDING)
        for name in TASKS
    }
    known = {"v": SCHEMA_VERSION, "example_id": "r/0", "revision": 0, "ts": 1, "user": "u", "item": "i"}
    return Example(**{**known, "labels": labels, **more})


def memory(*, fake: bool = False, rate: float = 1.0) -> Remembered:
    return Remembered(0, b"", [None, None], fake=fake, weights=[1 / rate, 1.0])


def slopes(found: Targets, p: float) -> np.ndarray:
    """Cross-entropy's slopes by the logits where `p` is predicted, what is undone taken off: f64 [B, T]."""
    new = np.nan_to_num(found.weights * (p - found.labels))
    return new - np.nan_to_num(found.undone.weights * (p - found.undone.labels))


def test_a_label_is_learned_once_however_often_it_is_told():
    kept = memory()
    first = targets([example(click=1.0)], [kept], TASKS)
    again = targets([example(click=1.0, rating=1.0, revision=1)], [kept], TASKS)
    np.testing.assert_array_equal(first.labels, [[1, np.nan]])
    np.testing.assert_array_equal(again.labels, [[np.nan, 1]])


def test_two_revisions_in_one_batch_do_not_count_twice():
    kept = memory()
    found = targets([example(click=1.0), example(click=1.0, rating=0.0, revision=1)], [kept, kept], TASKS)
    np.testing.assert_array_equal(found.labels, [[1, np.nan], [np.nan, 0]])


def test_pending_and_censored_labels_teach_nothing():
    labels = {"click": Label(LabelState.CENSORED, 1.0), "rating": Label(LabelState.PENDING)}
    assert np.isnan(targets([example(labels=labels)], [memory()], TASKS).labels).all()


def test_a_label_that_is_not_a_number_is_no_negative():
    kept = memory()
    assert np.isnan(targets([example(click=float("nan"))], [kept], TASKS).labels).all()
    assert kept.labels == [None, None]


def test_a_kept_negative_weighs_for_those_that_were_not():
    found = targets([example(click=0.0, negative_rate=0.25)], [memory()], TASKS)
    assert found.weights[0, 0] == 4
    assert targets([example(click=1.0, negative_rate=0.25)], [memory()], TASKS).weights[0, 0] == 1
    assert targets([example(click=0.0, negative_rate=0.0)], [memory()], TASKS).weights[0, 0] == MAX_WEIGHT


@pytest.mark.parametrize("organic", [True, False])
def test_a_zero_that_an_action_said_stands_for_itself(organic: bool):
    found = targets([example(rating=0.0, organic=organic, negative_rate=0.25, cause="e1")], [None], TASKS)
    assert found.weights[0, 1] == 1


def test_a_fake_negative_is_confirmed_by_the_joins_and_made_good_by_a_click():
    silent, clicked = memory(fake=True), memory(fake=True)
    found = targets([example(click=0.0), example(click=1.0)], [silent, clicked], TASKS, shown=(0,))
    np.testing.assert_array_equal(found.labels, [[np.nan, np.nan], [1, np.nan]])
    np.testing.assert_array_equal(found.fresh, [[0, np.nan], [1, np.nan]])
    np.testing.assert_array_equal(found.undone.labels, [[np.nan, np.nan], [0, np.nan]])
    np.testing.assert_array_equal(found.undone.weights, [[0, 0], [1, 0]])
    assert silent.labels == [0, None] and clicked.labels == [1, None]
    late = targets([example(click=1.0, revision=1, correction=True)], [silent], TASKS, shown=(0,))
    assert late.undone.labels[0, 0] == 0 and late.labels[0, 0] == 1 and np.isnan(late.fresh[0, 0])
    assert np.isnan(targets([example(click=1.0, revision=1)], [clicked], TASKS, shown=(0,)).labels).all()


@given(st.floats(0.01, 0.99), st.floats(1 / MAX_WEIGHT, 1.0))
def test_what_was_learned_when_shown_and_its_label_are_together_the_label_alone(p: float, rate: float):
    fake = p / rate
    click = example(click=1.0, negative_rate=rate, cause="e1")
    clicked = targets([click], [memory(fake=True, rate=rate)], TASKS, shown=(0,))
    assert fake + slopes(clicked, p)[0, 0] == pytest.approx(p - 1, abs=1e-4)
    # A 0 that an action says was not sampled: it stands for itself.
    passed = targets(
        [example(click=0.0, negative_rate=rate, cause="e1")], [memory(fake=True, rate=rate)], TASKS, shown=(0,)
    )
    assert fake + slopes(passed, p)[0, 0] == pytest.approx(p, abs=1e-4)
    # And an action may say 0 first and 1 later.
    kept = memory(fake=True, rate=rate)
    steps = [
        targets([example(click=value, revision=k, negative_rate=rate, cause=f"e{k}")], [kept], TASKS, shown=(0,))
        for k, value in enumerate((0.0, 1.0))
    ]
    assert fake + sum(slopes(step, p)[0, 0] for step in steps) == pytest.approx(p - 1, abs=1e-4)
    silent = targets([example(click=0.0, negative_rate=rate)], [memory(fake=True, rate=rate)], TASKS, shown=(0,))
    assert np.isnan(silent.labels).all() and slopes(silent, p)[0, 0] == 0


@pytest.mark.parametrize("rating", [0.0, 1.0])
def test_a_task_whose_negatives_are_said_has_no_fake_ones(rating: float):
    found = targets([example(rating=rating, cause="e1")], [memory(fake=True)], TASKS, shown=(0,))
    np.testing.assert_array_equal(found.labels, [[np.nan, rating]])
    np.testing.assert_array_equal(found.fresh, found.labels)
    assert not found.undone.weights.any()


def test_a_sample_of_negatives_gives_back_the_true_rate():
    rate, true, n = 0.25, 0.1, 40_000
    clicked = np.random.default_rng(3).random(n) < true
    kept = [k for k in range(n) if clicked[k] or negative_kept(f"r{k}/0", rate)]
    seen = [
        example(click=1.0, negative_rate=rate, cause="e") if clicked[k] else example(click=0.0, negative_rate=rate)
        for k in kept
    ]
    found = targets(seen, [memory() for _ in kept], TASKS)
    labels, weights = found.labels[:, 0].astype(float), found.weights[:, 0].astype(float)
    assert labels.mean() > 0.25
    assert (labels * weights).sum() / weights.sum() == pytest.approx(clicked.mean(), rel=0.03)


def test_every_rate_that_the_join_may_have_is_corrected_in_full():
    assert msgspec.convert({"negative_rate": 1 / MAX_WEIGHT}, JoinSettings).negative_rate == 1 / MAX_WEIGHT
    with pytest.raises(msgspec.ValidationError, match="negative_rate"):
        msgspec.convert({"negative_rate": 0.99 / MAX_WEIGHT}, JoinSettings)


@given(st.floats(0.01, 0.99), st.floats(1 / MAX_WEIGHT, 1.0), st.booleans())
def test_a_late_positive_undoes_the_slope_of_its_negative(p: float, rate: float, forgotten: bool):
    kept = None if forgotten else memory()
    first = targets([example(click=0.0, negative_rate=rate)], [kept], TASKS, shown=(0,))
    click = example(click=1.0, negative_rate=rate, negative_emitted=True, revision=1, correction=True, cause="e1")
    late = targets([click], [kept], TASKS, shown=(0,))
    assert np.isnan(late.fresh).all()
    assert slopes(first, p)[0, 0] == pytest.approx(p / rate, rel=1e-4)
    assert slopes(first, p)[0, 0] + slopes(late, p)[0, 0] == pytest.approx(p - 1, abs=1e-4)


def test_a_positive_that_is_taken_back_undoes_its_slope_and_is_no_new_label():
    """Somebody rated 5 and then 2: the newest rating counts."""
    kept = memory()
    first = targets([example(rating=1.0, cause="e1")], [kept], TASKS)
    back = targets([example(rating=0.0, revision=1, correction=True, cause="e2")], [kept], TASKS)
    np.testing.assert_array_equal(back.labels, [[np.nan, 0.0]])
    assert np.isnan(back.fresh).all()
    assert slopes(first, 0.3)[0, 1] + slopes(back, 0.3)[0, 1] == pytest.approx(0.3)


def test_a_correction_of_what_is_forgotten_is_learned_and_its_repetition_is_not():
    correction = example(click=1.0, rating=1.0, revision=3, correction=True, negative_emitted=True)
    assert targets([correction], [None], TASKS).undone.labels.tolist() == [[0, 0]]
    assert np.isnan(targets([example(click=1.0, revision=3)], [None], TASKS).labels).all()


def test_a_learner_learns_of_its_own_arm_of_organic_actions_and_of_no_experiment():
    def of(arm: str) -> list[Assignment]:
        return [Assignment("e", arm, "user", "u", 1, "full")]

    assert is_learned(of("online"), organic=False, arm="online")
    assert not is_learned(of("popularity"), organic=False, arm="online")
    assert is_learned(of("popularity"), organic=False, arm="")
    assert is_learned([], organic=False, arm="online")
    assert is_learned(of("popularity"), organic=True, arm="online")


def stay(value: float | None, /, **more: object) -> Example:
    labels = {"click": Label(LabelState.PENDING)}
    if value is not None:
        labels["stay"] = Label(LabelState.OBSERVED, value)
    return example(labels=labels, **more)


def test_a_value_is_learned_once_and_again_only_where_it_changed():
    kept = memory()
    tasks, values = ("click", "stay"), (1,)
    first = targets([stay(12.5, cause="e1")], [kept], tasks, values)
    np.testing.assert_array_equal(first.labels, [[np.nan, 12.5]])
    assert np.isnan(first.revised).all() and first.fresh[0, 1] == 12.5
    same = targets([stay(12.5, revision=1, correction=True)], [kept], tasks, values)
    assert np.isnan(same.labels).all()
    more = targets([stay(0.0, revision=2, correction=True), stay(1.0, revision=3)], [kept, kept], tasks, values)
    np.testing.assert_array_equal(more.labels, [[np.nan, 0.0], [np.nan, 1.0]])
    np.testing.assert_array_equal(more.revised, [[np.nan, 12.5], [np.nan, 0.0]])
    # None is a sampled negative, and none a fake one that came true.
    assert (more.weights == 1).all() and not more.undone.weights.any()
    assert np.isnan(more.fresh).all()


def test_of_a_forgotten_value_only_a_first_revision_is_known_to_be_new():
    tasks, values = ("click", "stay"), (1,)
    assert targets([stay(3.0)], [None], tasks, values).labels[0, 1] == 3.0
    later = stay(1.0, revision=1, correction=True, negative_emitted=True)
    assert np.isnan(targets([later], [None], tasks, values).labels).all()


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), 1e13])
def test_what_cannot_be_a_value_teaches_nothing(value: float):
    kept = memory()
    assert np.isnan(targets([stay(value)], [kept], ("click", "stay"), (1,)).labels).all()
    assert kept.labels == [None, None]
