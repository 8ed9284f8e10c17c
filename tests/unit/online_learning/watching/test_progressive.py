"""Progressive validation: windows add up, merge, and survive a restart with their numbers."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_learning.watching.progressive import (
    BINS,
    MAX_SCENES,
    OTHER_SCENES,
    Progressive,
    ProgressiveState,
    auc,
    logit_bins,
)
from tests.windows import merged_auc

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def pairwise_auc(bins: list[int], labels: list[bool]) -> float:
    """The definition: the share of (positive, negative) pairs in the right order, ties half."""
    pairs = [(p, n) for p, y in zip(bins, labels, strict=True) if y for n, z in zip(bins, labels, strict=True) if not z]
    return sum((p > n) + (p == n) / 2 for p, n in pairs) / len(pairs) if pairs else math.nan


def filled(answers: list[tuple[float, bool]], window: int, chunk: int = 7) -> Progressive:
    progressive = Progressive(["one"], ["click"], window)
    for start in range(0, len(answers), chunk):
        part = answers[start : start + chunk]
        said = np.array([p for p, _ in part], dtype=np.float32).reshape(-1, 1, 1)
        labels = np.array([[y] for _, y in part], dtype=np.float32)
        progressive.add(said, labels, list(range(start, start + len(part))), ["home"] * len(part))
    return progressive


@given(ANSWERS)
def test_the_auc_of_bins_is_the_share_of_pairs_in_order(answers: list[tuple[float, bool]]):
    bins = logit_bins(np.array([p for p, _ in answers]))
    labels = np.array([y for _, y in answers])
    found = auc(np.bincount(bins[labels], minlength=BINS), np.bincount(bins[~labels], minlength=BINS))
    expected = pairwise_auc(bins.tolist(), labels.tolist())
    assert found == pytest.approx(expected, nan_ok=True)


@given(ANSWERS, st.integers(1, 10))
def test_windows_together_are_the_whole(answers: list[tuple[float, bool]], window: int):
    progressive = filled(answers, window)
    windows = progressive.take_closed(0, 1) + progressive.take_open(0, 1)
    assert [one.window for one in windows] == list(range(len(windows)))
    assert [one.n for one in windows[:-1]] == [window] * (len(windows) - 1)
    assert sum(one.n for one in windows) == len(answers)
    assert sum(one.positives for one in windows) == sum(y for _, y in answers)
    whole = filled(answers, 10**6).take_open(0, 1)
    assert merged_auc(windows) == pytest.approx(merged_auc(whole), nan_ok=True)
    assert sum(one.log_loss_sum for one in windows) == pytest.approx(whole[0].log_loss_sum)
    assert (windows[0].first_ts, windows[-1].last_ts) == (0, len(answers) - 1)


@given(ANSWERS, ANSWERS)
def test_a_restored_validation_goes_on_as_if_nothing_had_been(
    before: list[tuple[float, bool]], after: list[tuple[float, bool]]
):
    whole = filled(before + after, 9, chunk=1)
    first = filled(before, 9, chunk=1)
    first.take_closed(0, 1)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=ProgressiveState)
    second = Progressive(["one"], ["click"], 9)
    second.restore(kept)
    for number, (p, y) in enumerate(after, start=len(before)):
        second.add(np.full((1, 1, 1), p, np.float32), np.array([[y]], np.float32), [number], ["home"])
    expected = {one.window: one for one in whole.take_closed(0, 1) + whole.take_open(0, 1)}
    for one in second.take_closed(0, 1) + second.take_open(0, 1):
        assert one == expected[one.window]
    assert second.figures() == pytest.approx(whole.figures())


def test_an_open_window_is_told_again_only_when_it_grew():
    progressive = filled([(0.3, True)], 10)
    assert [one.n for one in progressive.take_open(0, 1)] == [1]
    assert progressive.take_open(0, 1) == []


def test_windows_that_are_dropped_leave_nothing_and_the_next_is_the_first():
    progressive = filled([(0.3, True)] * 25, 10)
    progressive.drop_closed()
    assert progressive.take_closed(0, 1) == []
    assert [(one.window, one.n) for one in progressive.take_open(0, 1)] == [(0, 5)]
    assert progressive.figures()["validated_click"] == 25


def test_scenes_and_tasks_have_windows_of_their_own():
    progressive = Progressive(["one"], ["click", "rating"], 10)
    labels = np.array([[1, np.nan], [0, 1], [np.nan, np.nan]], dtype=np.float32)
    progressive.add(np.full((3, 1, 2), 0.5, np.float32), labels, [1, 2, 3], ["home", "news", "home"])
    found = {(one.task, one.scene): (one.n, one.positives) for one in progressive.take_open(0, 1)}
    assert found == {("click", "home"): (1, 1), ("click", "news"): (1, 0), ("rating", "news"): (1, 1)}


def test_certainty_that_was_wrong_costs_much_but_not_everything():
    progressive = filled([(0.0, True), (1.0, False)], 10)
    assert 20 < progressive.take_open(0, 1)[0].log_loss_sum < 40


@given(ANSWERS, st.integers(1, 4), st.integers(1, 10))
def test_sampled_negatives_give_the_log_loss_and_mean_prediction_of_all(
    answers: list[tuple[float, bool]], each: int, window: int
):
    """Every negative is kept for `each`: the same as if it had come so often."""
    kept, everything = Progressive(["one"], ["click"], window), Progressive(["one"], ["click"], 10**6)
    for p, y in answers:
        label, weight = np.array([[y]], np.float32), np.array([[1.0 if y else each]], np.float32)
        kept.add(np.full((1, 1, 1), p, np.float32), label, [0], ["home"], weight)
        for _ in range(1 if y else each):
            everything.add(np.full((1, 1, 1), p, np.float32), label, [0], ["home"])
    windows, whole = kept.take_closed(0, 1) + kept.take_open(0, 1), everything.take_open(0, 1)[0]
    assert sum(one.n for one in windows) == len(answers)
    assert sum(one.weight_sum for one in windows) == whole.weight_sum == whole.n
    assert sum(one.log_loss_sum for one in windows) == pytest.approx(whole.log_loss_sum)
    assert sum(one.prediction_sum for one in windows) == pytest.approx(whole.prediction_sum)
    assert merged_auc(windows) == pytest.approx(merged_auc([whole]), nan_ok=True)
    assert kept.figures() == pytest.approx({**everything.figures(), "validated_click": len(answers)})


def test_more_scenes_than_are_told_apart_are_counted_together():
    """Scenes are free text of whoever sends events: memory and topic must not grow with them."""
    scenes = [f"s{k}" for k in range(MAX_SCENES + 50)]
    said, labels = np.full((len(scenes), 1, 1), 0.5, np.float32), np.ones((len(scenes), 1), np.float32)
    before, after = (Progressive(["one"], ["click"], 10**6) for _ in range(2))
    before.add(said, labels, [0] * len(scenes), scenes)
    after.restore(before.state())
    # In another order after a restart: the same scenes are told apart.
    after.add(said, labels, [0] * len(scenes), scenes[::-1])
    found = {one.scene: one.n for one in after.take_open(0, 1)}
    assert found == dict.fromkeys(scenes[:MAX_SCENES], 2) | {OTHER_SCENES: 100}


def test_what_nobody_predicts_any_more_is_not_taken_over():
    before = Progressive(["one", "gone"], ["click"], 10)
    before.add(np.full((1, 2, 1), 0.5, np.float32), np.ones((1, 1), np.float32), [0], ["home"])
    after = Progressive(["one"], ["click"], 10)
    after.restore(before.state())
    assert [one.learner for one in after.take_open(0, 1)] == ["one"]
