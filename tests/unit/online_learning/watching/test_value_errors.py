"""Progressive validation of values: sums that merge, errors in the values' units, skill against the running mean."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from online_learning.state import CheckpointMeta, Counters
from online_learning.updates.position import LogPosition
from online_learning.watching.progressive import Progressive, ProgressiveState
from online_learning.watching.value_errors import NEWEST, NewestErrors, ValueErrors, running_means
from streams.records import Validation
from streams.topics import METRICS
from tests.windows import merged_errors

LEARNERS, TASKS = ("online", "popularity"), ("click", "stay")


def validated(seed: int, sizes: list[int], window: int = 10) -> tuple[Progressive, np.ndarray, np.ndarray]:
    """What was said f32 [n, 2, 2] and the labels f32 [n, 2], counted in batches; every third has no value."""
    random = np.random.default_rng(seed)
    n = sum(sizes)
    labels = np.stack([random.random(n) < 0.3, random.exponential(30.0, n)], axis=1).astype(np.float32)
    labels[::3, 1] = np.nan
    said = np.stack([random.random((n, 2)), random.exponential(30.0, (n, 2))], axis=2).astype(np.float32)
    progressive, start = Progressive(LEARNERS, TASKS, window, values=(1,)), 0
    for size in sizes:
        part = slice(start, start + size)
        progressive.add(said[part], labels[part], range(start, start + size), ["ab"[k % 2] for k in range(n)][part])
        start += size
    return progressive, said, labels


sizes = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@given(st.integers(0, 1000), sizes)
def test_merged_windows_are_numpys_figures_whatever_the_batches(seed: int, sizes: list[int]) -> None:
    progressive, said, labels = validated(seed, sizes)
    windows = progressive.take_closed(0, 1) + progressive.take_open(0, 1)
    known = ~np.isnan(labels[:, 1])
    values = labels[known, 1].astype(np.float64)
    means = [values[:k].mean() if k else 0.0 for k in range(len(values))]
    for number, learner in enumerate(LEARNERS):
        mine = [w for w in windows if w.learner == learner and w.task == "stay"]
        found = merged_errors(mine)
        errors = said[known, number, 1] - values
        assert found.n == len(values) == sum(w.n for w in mine)
        if not len(values):
            continue
        assert found.mae == pytest.approx(np.abs(errors).mean())
        assert found.rmse == pytest.approx(np.sqrt((errors**2).mean()))
        assert found.r2 == pytest.approx(1 - (errors**2).sum() / ((values - means) ** 2).sum())
        figures = progressive.figures()
        assert (figures[f"mae_stay_{learner}"], figures[f"r2_stay_{learner}"]) == pytest.approx((found.mae, found.r2))
        assert sum(w.prediction_sum for w in mine) / sum(w.label_sum for w in mine) == pytest.approx(
            said[known, number, 1].sum() / values.sum(), rel=1e-5
        )


def test_the_newest_errors_leave_the_beginning_behind() -> None:
    newest, errors = NewestErrors(), ValueErrors.of(np.ones(7), np.zeros(7), np.ones(7))
    for k in range(300):
        newest.add(errors)
        assert newest.sum.n == 7 * (k + 1) if 7 * (k + 1) < NEWEST else NEWEST <= newest.sum.n < 2 * NEWEST + 14
    for _ in range(NEWEST):
        newest.add(ValueErrors.of(np.zeros(4), np.zeros(4), np.ones(4)))
    assert newest.sum.r2 == 1.0


def test_status_says_how_it_was_from_the_start_and_how_it_is_of_late() -> None:
    progressive = Progressive(("online",), ("stay",), 100, values=(0,))
    labels = np.random.default_rng(0).exponential(30.0, 4 * NEWEST).astype(np.float32)
    said = np.where(np.arange(4 * NEWEST) < 2 * NEWEST, 1_000.0, labels).astype(np.float32)
    for k in range(0, 4 * NEWEST, 50):
        part = slice(k, k + 50)
        progressive.add(said[part, None, None], labels[part, None], range(50), [""] * 50)
    figures = progressive.figures()
    assert figures["r2_stay_online"] < 0 < figures["r2_newest_stay_online"] == 1.0


def test_a_window_of_values_says_so_and_has_neither_classes_nor_auc() -> None:
    progressive, _, _ = validated(1, [60])
    windows = progressive.take_closed(0, 1) + progressive.take_open(0, 1)
    assert {w.scene for w in windows if w.task == "stay"} == {"a", "b"}
    for window in windows:
        again = METRICS.codec.decode(METRICS.codec.encode(window))
        assert again == window
        if window.task == "stay":
            assert (window.target, window.positives, window.log_loss_sum) == ("value", 0, 0.0)
            assert window.bins_positive == window.bins_negative == []
            assert window.n <= 10
        else:
            assert (window.target, window.label_sum, window.squared_error_sum) == ("binary", 0.0, 0.0)
            assert sum(window.bins_positive) + sum(window.bins_negative) == window.n
    assert not {name for name in progressive.figures() if "stay" in name and name.startswith(("auc", "log_loss"))}


def test_a_restored_validation_goes_on_as_if_nothing_had_been() -> None:
    whole, said, labels = validated(2, [50, 30])
    restored = Progressive(LEARNERS, TASKS, 10, values=(1,))
    half = Progressive(LEARNERS, TASKS, 10, values=(1,))
    scenes = ["ab"[k % 2] for k in range(80)]
    half.add(said[:50], labels[:50], range(50), scenes[:50])
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(half.state()), type=ProgressiveState))
    restored.add(said[50:], labels[50:], range(50, 80), scenes[50:])
    assert restored.figures() == whole.figures()


def test_a_window_of_an_older_version_is_of_a_binary_task() -> None:
    old = Validation(
        process="trainer",
        learner="online",
        task="click",
        scene="",
        window=0,
        ts=0,
        first_ts=0,
        last_ts=0,
        n=1,
        positives=1,
        log_loss_sum=0.1,
        bins_positive=[1],
        bins_negative=[0],
    )
    assert b"target" not in METRICS.codec.encode(old)
    assert METRICS.codec.decode(METRICS.codec.encode(old)).target == "binary"


def test_what_an_older_version_kept_is_read() -> None:
    kept = {"tallies": [("online", "click", "", {"window": 3, "n": 2, "positives": 1})], "totals": []}
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(kept), type=ProgressiveState)
    assert (state.tallies[0][3].n, state.tallies[0][3].errors) == (2, ValueErrors())
    whole = msgspec.to_builtins(CheckpointMeta(LogPosition(), Counters(), ("click",), ()))
    assert whole.pop("values") == ()
    assert msgspec.convert(whole, CheckpointMeta).values == ()


@given(st.lists(st.floats(0, 1e6), max_size=30), st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_the_running_mean_knows_only_what_came_before(before: list[float], labels: list[float]) -> None:
    known = ValueErrors(n=len(before), labels=sum(before))
    found = running_means(np.array(labels), known)
    everything = before + labels
    for k in range(len(labels)):
        past = everything[: len(before) + k]
        assert found[k] == pytest.approx(sum(past) / len(past) if past else 0.0)


def test_without_predictions_there_is_nothing_to_say() -> None:
    nothing = ValueErrors()
    assert all(math.isnan(value) for value in (nothing.mae, nothing.rmse, nothing.r2))
    # A value that never changes leaves nothing to explain.
    same = ValueErrors.of(np.array([3.0]), np.array([3.0]), np.array([3.0]))
    assert same.mae == 0.0 and math.isnan(same.r2)
