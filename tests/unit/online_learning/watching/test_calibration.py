"""Calibration: mean prediction over observed rate, of the recent past, across a restart."""

import msgspec
import numpy as np
import pytest

from online_learning.watching.calibration import HALF_LIFE, Calibration, CalibrationState


def one() -> Calibration:
    return Calibration(["online", "river"], ["click", "rating"])


def test_it_is_the_mean_prediction_over_the_observed_rate():
    calibration = one()
    said = np.array([[[0.2, 0.9], [0.4, 0.9]], [[0.3, 0.9], [0.6, 0.9]]], dtype=np.float32)
    calibration.add(said, np.array([[1, np.nan], [0, np.nan]], dtype=np.float32))
    assert calibration.ratios() == pytest.approx({("online", "click"): 0.5, ("river", "click"): 1.0})


def test_the_past_counts_half_after_a_half_life_whatever_the_batches():
    calibration = one()
    labels = np.array([[1, np.nan]] * 100, dtype=np.float32)
    for said in (1.0, 0.5):
        for _ in range(2 * HALF_LIFE // 100):
            calibration.add(np.full((100, 2, 2), said, dtype=np.float32), labels)
    # Of all weight, a fifth is from the first half: 1/4 against 1.
    assert calibration.ratios()["online", "click"] == pytest.approx(0.2 * 1.0 + 0.8 * 0.5, rel=1e-3)


def test_a_prediction_that_is_not_a_number_and_has_no_label_counts_nowhere():
    calibration = one()
    calibration.add(np.full((1, 2, 2), np.nan, dtype=np.float32), np.full((1, 2), np.nan, dtype=np.float32))
    assert calibration.ratios() == {}


def test_a_restored_calibration_goes_on_as_if_nothing_had_been():
    random = np.random.default_rng(0)
    said = random.random((50, 2, 2)).astype(np.float32)
    labels = (random.random((50, 2)) < 0.5).astype(np.float32)
    whole, first, second = one(), one(), one()
    whole.add(said, labels)
    first.add(said, labels)
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=CalibrationState))
    for calibration in (whole, second):
        calibration.add(said[::-1], labels)
    assert second.ratios() == whole.ratios()


def test_of_values_it_is_the_mean_prediction_over_the_mean_value():
    calibration = Calibration(["online"], ["click", "stay"], values=(1,))
    said = np.array([[[0.5, 10.0]], [[0.5, 20.0]], [[0.5, 99.0]]], dtype=np.float32)
    calibration.add(said, np.array([[1, 5.0], [0, 7.5], [np.nan, np.nan]], dtype=np.float32))
    assert calibration.ratios() == pytest.approx({("online", "click"): 1.0, ("online", "stay"): 30.0 / 12.5}, rel=1e-3)


def test_a_negative_kept_for_others_counts_for_all_of_them():
    calibration = one()
    said = np.full((3, 2, 2), 0.2, dtype=np.float32)
    labels = np.array([[1, np.nan], [0, np.nan], [0, np.nan]], dtype=np.float32)
    calibration.add(said, labels, np.array([[1, 9], [2, 9], [2, 9]], dtype=np.float32))
    # Five were shown, one was clicked, and that is what was predicted.
    assert calibration.ratios() == pytest.approx({("online", "click"): 1.0, ("river", "click"): 1.0})
