"""The learners: all predict before any learns, nothing counts twice, and a restored one goes on bit for bit."""

import msgspec
import numpy as np
import pytest
import torch

from online_learning.catalogue import Catalogue
from online_learning.learner import OnlineLearner
from online_learning.learners import Learners
from online_learning.settings import LearningSettings, ModelSettings, RowSettings, TrainerSettings
from online_learning.state import TrainerState
from online_learning.table.settings import EvictionPolicy, OptimizerKind
from online_learning.table.version import pack_version
from streams.labels import negative_kept
from streams.records import (
    SCHEMA_VERSION,
    Assignment,
    Example,
    Impression,
    Item,
    Label,
    LabelState,
    Shown,
    User,
)
from streams.settings import TaskSettings

SETTINGS = LearningSettings(
    tasks=(TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating")),
    model=ModelSettings(dim=4, hidden=(8,)),
    trainer=TrainerSettings(validation_window=10, remembered_examples=1000),
)
NOW = 1_000
OURS = [Assignment("e", "online", "user", "u", 1, "full")]
THEIRS = [Assignment("e", "popularity", "user", "u", 1, "full")]


def learners(settings: LearningSettings = SETTINGS) -> Learners:
    catalogue = Catalogue()
    for number in range(20):
        item = Item(item=f"i{number}", attributes={"category": f"c{number % 3}"})
        catalogue.put_item(item.item, item)
    for number in range(5):
        catalogue.put_user(f"u{number}", User(user=f"u{number}", attributes={"segment": "s"}))
    return Learners(settings, catalogue)


def impression(number: int, items: int = 4, arms: list[Assignment] = OURS) -> Impression:
    shown = [Shown(f"i{(number + k) % 20}", k, 0.0, 1.0, "s", False) for k in range(items)]
    return Impression(SCHEMA_VERSION, f"r{number}", number, f"u{number % 5}", shown, arms=arms, scene="home")


def example(number: int, position: int, click: float | None, /, **more: object) -> Example:
    labels = {"click": Label(LabelState.PENDING) if click is None else Label(LabelState.OBSERVED, click)}
    known = {
        "v": SCHEMA_VERSION,
        "example_id": f"r{number}/{position}",
        "revision": 0,
        "ts": number,
        "user": f"u{number % 5}",
        "item": f"i{(number + position) % 20}",
        "request_id": f"r{number}",
        "position": position,
        "arms": OURS,
        "scene": "home",
    }
    return Example(**{**known, "labels": labels, **more})


def learn(these: Learners, *examples: Example, step: int = 1) -> None:
    these.learn(list(examples), 1_000 * step, pack_version(1, step))


def test_an_example_is_scored_by_what_was_said_at_first_sight():
    one, other = learners(), learners()
    one.see([impression(0)], NOW)
    for step in range(30):
        learn(one, example(100 + step, 0, 1.0, item="i0", user="u0"), step=step + 1)
        learn(other, example(100 + step, 0, 1.0, item="i0", user="u0"), step=step + 1)
    learn(one, example(0, 0, 1.0), step=50)
    learn(other, example(0, 0, 1.0), step=50)
    seen, unseen = (
        next(w for w in these.progressive.take_closed(0, 1)[::-1] + these.progressive.take_open(0, 1) if w.window == 3)
        for these in (one, other)
    )
    assert seen.n == unseen.n == 1
    # At first sight nothing was known but what a new model says. Thirty clicks later it is sure.
    assert seen.prediction_sum == pytest.approx(0.1)
    assert unseen.prediction_sum > 0.3


def said(these: Learners, number: int = 0) -> float:
    """What is now predicted of the first item of an impression."""
    return float(these.online.predict(these._batcher.of_impressions([impression(number, 1)]))[0, 0])


def test_what_is_shown_is_a_negative_until_it_is_clicked():
    these = learners()
    these.see([impression(0)], NOW)
    assert these.waiting and these.counters.fake_negatives == 0
    before = said(these)
    these.learn_rest(pack_version(1, 1))
    shown = said(these)
    assert shown < before
    assert these.counters.fake_negatives == 4 and these.counters.learned == 0 and not these.waiting
    assert "validated_click" not in these.progressive.figures() or these.progressive.figures()["validated_click"] == 0
    digest = these.online.table.digest()
    learn(these, *(example(0, k, 0.0) for k in range(1, 4)), step=2)
    assert these.online.table.digest() == digest
    learn(these, example(0, 0, 1.0), step=3)
    assert said(these) > before
    assert these.counters.labels["click"] == these.counters.learned == 4
    assert these.counters.corrections == 0
    assert these.progressive.figures()["validated_click"] == 4


def test_a_click_leaves_rows_as_if_it_had_been_known_at_once():
    """The fake negative's step and the one that makes it good are together that of the click alone."""
    rate = 1e-3
    settings = msgspec.structs.replace(
        SETTINGS,
        sparse_optimizer=OptimizerKind.SGD,
        sparse_learning_rate=rate,
        model=msgspec.structs.replace(SETTINGS.model, name="logistic_regression"),
    )
    late, soon = learners(settings), learners(settings)
    late.see([impression(0, 1)], NOW)
    late.learn_rest(pack_version(1, 1))
    assert said(late) < 0.1 - 1e-5
    learn(late, example(0, 0, 1.0), step=2)
    learn(soon, example(0, 0, 1.0))
    # To the second order of the steps: both saw another model when they took theirs.
    assert said(late) == pytest.approx(said(soon), abs=5 * rate**2)
    assert said(soon) > 0.1 + 1e-4


def test_what_an_example_says_first_is_no_fake_negative():
    """A click comes in one batch with its impression: it goes first, and the other items are learned behind it."""
    these, other = learners(), learners()
    these.see([impression(0)], NOW)
    learn(these, example(0, 0, 1.0), example(0, 1, 0.0))
    learn(other, example(0, 0, 1.0), example(0, 1, 0.0))
    assert these.online.table.digest() == other.online.table.digest()
    these.learn_rest(pack_version(1, 2))
    assert these.counters.fake_negatives == 2
    assert [entry.fake for _, entry in these.predictions.items()] == [False, False, True, True]
    assert these.counters.learned == 2


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_fake_negatives_are_those_that_the_join_would_keep(share: float):
    join = msgspec.structs.replace(SETTINGS.join, negative_rate=share)
    these = learners(msgspec.structs.replace(SETTINGS, join=join))
    seen = [impression(number) for number in range(50)]
    these.see(seen, NOW)
    these.learn_rest(pack_version(1, 1))
    kept = [f"r{n}/{k}" for n in range(50) for k in range(4) if negative_kept(f"r{n}/{k}", share)]
    assert these.counters.fake_negatives == len(kept)
    assert [name for name, entry in these.predictions.items() if entry.fake] == kept


def test_what_was_shown_long_before_the_newest_example_is_left_to_the_join():
    """Its examples are read already, or were by a backfill: they would be learned twice."""
    these = learners()
    learn(these, example(0, 0, 1.0, ts=100_000), step=200)
    window_ms = SETTINGS.join.window_ms
    these.see([msgspec.structs.replace(impression(1), ts=100_000 - window_ms)], 10**12)
    assert not these.waiting and "r1/0" in these.predictions
    these.see([msgspec.structs.replace(impression(2), ts=100_001 - window_ms)], 10**12)
    assert these.waiting


def test_a_new_model_leaves_to_the_join_what_was_shown_long_ago():
    these = learners()
    these.see([impression(1)], SETTINGS.join.window_ms + 1)
    assert not these.waiting
    these.see([impression(2)], SETTINGS.join.window_ms + 1)
    assert these.waiting


def test_of_a_host_whose_clock_is_fast_nothing_is_learned_that_the_join_refuses_nor_kept_for_longer():
    trainer = msgspec.structs.replace(SETTINGS.trainer, remembered_examples=4)
    these = learners(msgspec.structs.replace(SETTINGS, trainer=trainer))
    latest = NOW + SETTINGS.join.future_ms
    these.see([msgspec.structs.replace(impression(1), ts=latest + 1)], NOW)
    assert not these.waiting
    these.see([msgspec.structs.replace(impression(2), ts=latest)], NOW)
    these.learn_rest(pack_version(1, 1))
    assert these.counters.fake_negatives == 4
    later = NOW + 2 * SETTINGS.join.window_ms
    learn(these, example(9, 0, 1.0, ts=later, organic=True), step=later)
    these.see([msgspec.structs.replace(impression(3), ts=later)], later)
    assert [name for name, _ in these.predictions.items()] == [f"r3/{k}" for k in range(4)]


def test_fake_negatives_can_be_left_out():
    trainer = msgspec.structs.replace(SETTINGS.trainer, fake_negatives=False)
    these = learners(msgspec.structs.replace(SETTINGS, trainer=trainer))
    these.see([impression(0)], NOW)
    assert not these.waiting
    learn(these, example(0, 0, 0.0))
    assert these.counters.learned == 1 and these.counters.fake_negatives == 0


def test_a_fake_negative_is_not_forgotten_before_its_example_comes():
    """The memory holds two impressions, and more come within a moment."""
    trainer = msgspec.structs.replace(SETTINGS.trainer, remembered_examples=8)
    these = learners(msgspec.structs.replace(SETTINGS, trainer=trainer))
    for number in range(4):
        these.see([impression(number)], NOW)
        these.learn_rest(pack_version(1, 1 + number))
    assert these.counters.fake_negatives == 8
    assert [name for name, _ in these.predictions.items()] == [f"r{r}/{p}" for r in (0, 1) for p in range(4)]
    # The examples of what was forgotten in place of them are predicted when they come, and learned once, as all others.
    digest = these.online.table.digest()
    learn(these, *(example(r, k, 0.0) for r in (0, 1) for k in range(4)), step=5)
    assert these.online.table.digest() == digest and these.counters.late_predictions == 0
    learn(these, *(example(2, k, 0.0) for k in range(4)), step=6)
    assert these.counters.late_predictions == 4 and these.counters.learned == 12
    # What was said gives way again, and so does what no example came for in two windows.
    assert all(name.startswith(("r1/", "r2/")) for name, _ in these.predictions.items())
    later = 2 * SETTINGS.join.window_ms + 5
    learn(these, example(9, 0, 1.0, ts=later, organic=True), step=later)
    these.see([msgspec.structs.replace(impression(5), ts=later)], later)
    assert "r5/0" in these.predictions and these.waiting


def test_baselines_judge_by_what_they_say_themselves():
    """A model that is stuck at nine in ten has nothing to do with what its baselines make of one click in ten."""
    model = msgspec.structs.replace(SETTINGS.model, dense_learning_rate=1e-9)
    these = learners(msgspec.structs.replace(SETTINGS, sparse_learning_rate=1e-9, model=model))
    with torch.no_grad():
        these.online.model.bias.fill_(2.2)
    clicked = np.random.default_rng(5).random((120, 20)) < 0.1
    for n in range(1, 120):
        these.see([impression(n, 20)], NOW)
        these.learn_rest(pack_version(1, n))
        learn(these, *(example(n, k, float(clicked[n, k]), cause="e") for k in range(20)), step=n)
    batch = these._batcher.of_impressions([impression(400)])
    online, river, popularity = these._predict(batch)[:, :, 0].T
    assert online.min() > 0.8
    assert river == pytest.approx(0.1, abs=0.1) and popularity == pytest.approx(0.1, abs=0.05)


def test_a_fake_negative_that_is_refused_is_learned_by_its_example():
    these = learners()
    broken = impression(0, 1)
    these.see([broken], NOW)
    bias = these.online.model.bias
    with torch.no_grad():
        bias.fill_(float("nan"))
    these.learn_rest(pack_version(1, 1))
    assert these.counters.fake_negatives == 0
    assert [entry.fake for _, entry in these.predictions.items()] == [False]


def test_every_revision_of_a_request_is_validated_and_learned_once():
    these = learners()
    these.see([impression(0)], NOW)
    these.see([impression(0)], NOW)
    learn(these, example(0, 1, 1.0))
    learn(these, example(0, 1, 1.0, revision=1), example(0, 2, 0.0), step=2)
    assert these.counters.labels == {"click": 2, "rating": 0}
    assert these.counters.learned == 2
    assert these.counters.late_predictions == 0
    assert these.progressive.figures()["validated_click"] == 2


def test_a_late_positive_is_learned_as_a_correction_and_not_validated_again():
    these = learners()
    these.see([impression(0)], NOW)
    learn(these, example(0, 1, 0.0))
    learn(these, example(0, 1, 1.0, revision=1, correction=True, negative_emitted=True), step=2)
    assert these.counters.corrections == 1
    assert these.counters.labels["click"] == 2
    assert these.progressive.figures()["validated_click"] == 1


def test_a_rating_that_is_taken_back_is_a_correction_and_not_validated_again():
    these = learners()
    these.see([impression(0)], NOW)
    rated = {"labels": {"rating": Label(LabelState.OBSERVED, 1.0)}, "cause": "e1"}
    learn(these, example(0, 1, None, **rated))
    rated = {"labels": {"rating": Label(LabelState.OBSERVED, 0.0)}, "cause": "e2"}
    learn(these, example(0, 1, None, revision=1, correction=True, **rated), step=2)
    assert these.counters.corrections == 1
    assert these.progressive.figures()["validated_rating"] == 1


def test_an_example_without_its_impression_is_predicted_before_it_is_learned():
    these = learners()
    assert these.unseen([example(3, 0, 1.0)])
    learn(these, example(3, 0, 1.0))
    assert these.counters.late_predictions == 1
    assert these.progressive.figures()["validated_click"] == 1
    assert not these.unseen([example(3, 0, 1.0)])


def test_the_other_arms_traffic_teaches_nothing():
    these = learners()
    these.see([impression(0, arms=THEIRS)], NOW)
    learn(these, example(0, 0, 1.0, arms=THEIRS))
    assert not these.unseen([example(0, 0, 1.0, arms=THEIRS)])
    assert len(these.predictions) == len(these.online.table) == these.counters.learned == 0


def test_organic_clicks_are_learned_but_have_no_negatives_to_be_told_from():
    these = learners()
    organic = {"organic": True, "request_id": None, "position": -1, "arms": []}
    learn(these, example(0, 0, 1.0, example_id="e", **organic))
    labels = {"rating": Label(LabelState.OBSERVED, 0.0)}
    learn(these, example(0, 0, None, example_id="f", **{**organic, "labels": labels}), step=2)
    assert these.counters.labels == {"click": 1, "rating": 1}
    assert "validated_click" not in these.progressive.figures() or these.progressive.figures()["validated_click"] == 0
    assert these.progressive.figures()["validated_rating"] == 1


def test_strangers_without_attributes_features_or_context_are_learned_like_all_others():
    these = learners()
    learn(these, example(0, 0, 1.0, user="", item="never heard of", scene="", position=-1, item_features=[1.0]))
    assert these.counters.learned == 1


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first():
    small = msgspec.structs.replace(SETTINGS, trainer=msgspec.structs.replace(SETTINGS.trainer, remembered_examples=8))
    these = learners(small)
    these.see([impression(number) for number in range(5)], NOW)
    assert [name for name, _ in these.predictions.items()] == [f"r{r}/{p}" for r in (3, 4) for p in range(4)]
    learn(these, example(0, 0, 0.0, revision=2))
    assert these.counters.learned == 0


def traffic(first: int, last: int) -> list[tuple[list[Impression], list[Example]]]:
    random = np.random.default_rng(first)
    return [
        ([impression(n)], [example(n, k, float(random.random() < 0.3)) for k in range(4)]) for n in range(first, last)
    ]


def run(these: Learners, batches: list[tuple[list[Impression], list[Example]]], first: int) -> None:
    for step, (impressions, examples) in enumerate(batches, start=first):
        these.see(impressions, NOW)
        these.learn_rest(pack_version(1, step))
        these.learn(examples, step, pack_version(1, step))


def test_baselines_learn_behind_the_model_and_before_anything_else_is_predicted():
    plain = msgspec.structs.replace(
        SETTINGS, trainer=msgspec.structs.replace(SETTINGS.trainer, fake_negatives=False, validation_window=1)
    )
    one, other = learners(plain), learners(plain)
    nothing = one.state().baselines
    for step, (impressions, examples) in enumerate(traffic(1, 8), start=1):
        for these in (one, other):
            these.see(impressions, NOW)
            these.learn(examples, step, pack_version(1, step))
            assert these.waiting
        one.learn_rest(pack_version(1, step))
        assert not one.waiting
    assert other.state().baselines == one.state().baselines != nothing
    assert not other.waiting
    assert other.progressive.take_closed(0, 1) == one.progressive.take_closed(0, 1) != []


@pytest.mark.parametrize("optimizer", OptimizerKind)
def test_a_restored_trainer_goes_on_bit_for_bit(optimizer: OptimizerKind):
    settings = msgspec.structs.replace(SETTINGS, sparse_optimizer=optimizer)
    whole, first, second = learners(settings), learners(settings), learners(settings)
    before, after = traffic(1, 15), traffic(15, 30)
    run(whole, before + after, 1)
    run(first, before, 1)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=TrainerState)
    online: OnlineLearner = first.online
    second.online.restore(online.table.snapshot(), online.dense_parameters(), kept.optimizer)
    second.restore(kept, first.counters)
    run(second, after, 15)
    assert second.online.table.digest() == whole.online.table.digest()
    for name, value in whole.online.dense_parameters().items():
        np.testing.assert_array_equal(second.online.dense_parameters()[name], value)
    assert second.progressive.figures() == whole.progressive.figures()
    assert second.calibration.ratios() == whole.calibration.ratios() != {}
    assert second.drift.state() == whole.drift.state()
    assert second.counters == whole.counters


def test_an_erased_user_leaves_a_tombstone():
    these = learners()
    learn(these, example(0, 0, 1.0))
    rows = len(these.online.table)
    these.forget_user("u0", pack_version(1, 2))
    assert len(these.online.table) == rows - 1


def test_rows_expire_by_the_time_of_the_events_whatever_the_wall_clock_says():
    settings = msgspec.structs.replace(SETTINGS, rows=RowSettings(eviction=EvictionPolicy.TTL, ttl_s=10.0))
    first, second = learners(settings), learners(settings)
    first.learn([example(0, 0, 1.0)], now_ms=10**12, version=pack_version(1, 1))
    # The trainer was away for longer than that, and starts again from what it kept.
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=TrainerState)
    second.online.restore(first.online.table.snapshot(), first.online.dense_parameters(), kept.optimizer)
    second.restore(kept, first.counters)
    assert second.evict(pack_version(2, 1)) == 0
    second.learn([example(1, 1, 1.0, ts=9_000)], now_ms=2 * 10**12, version=pack_version(2, 2))
    assert second.evict(pack_version(2, 3)) == 0
    rows = len(second.online.table)
    # Late ones do not turn the clock back: what they name was seen now.
    second.learn([example(2, 2, 1.0, ts=10_000), example(3, 3, 1.0, ts=0)], now_ms=10**12, version=pack_version(2, 4))
    more = len(second.online.table) - rows
    assert second.evict(pack_version(2, 5)) > 0
    second.learn([example(3, 3, 0.0, ts=10_001)], now_ms=0, version=pack_version(2, 6))
    assert second.evict(pack_version(2, 7)) == 0
    assert len(second.online.table) > more > 0


def test_an_event_from_the_future_expires_no_rows():
    settings = msgspec.structs.replace(SETTINGS, rows=RowSettings(eviction=EvictionPolicy.TTL, ttl_s=10.0))
    these = learners(settings)
    these.learn([example(0, 0, 1.0, ts=1_000)], now_ms=1_050, version=pack_version(1, 1))
    these.learn([example(1, 1, 1.0, ts=3_600_000)], now_ms=2_000, version=pack_version(1, 2))
    assert these.evict(pack_version(1, 3)) == 0
    these.learn([example(2, 2, 1.0, ts=11_000)], now_ms=11_100, version=pack_version(1, 4))
    assert these.evict(pack_version(1, 5)) > 0
    assert these.clock_ms == 11_000


def test_a_calibrated_model_is_said_to_be_calibrated_however_few_negatives_are_kept():
    """A new model says .1, and one in ten is clicked; of the others one in four is kept."""
    these = learners()
    clicked = [example(number, 0, 1.0, negative_rate=0.25) for number in range(20)]
    kept = [example(number, 0, 0.0, negative_rate=0.25) for number in range(20, 65)]
    these.learn([*clicked, *kept], 1, pack_version(1, 1))
    assert these.calibration.ratios()["online", "click"] == pytest.approx(1.0, rel=1e-3)
    assert these.progressive.figures()["log_loss_click_online"] == pytest.approx(0.3251, rel=1e-3)


def test_all_learners_learn():
    """User likes category: 4,000 answered items are enough to tell which."""
    these, random = learners(), np.random.default_rng(0)
    for number in range(400):
        these.see([impression(number, 10)], NOW)
        clicks = [float(random.random() < (0.6 if (number + k) % 20 % 3 == number % 5 % 3 else 0.1)) for k in range(10)]
        these.learn([example(number, k, y) for k, y in enumerate(clicks)], number, pack_version(1, number + 1))
    figures = these.progressive.figures()
    assert figures["auc_click_online"] > 0.65
    assert figures["auc_click_river"] > 0.5
    assert 0.4 < figures["auc_click_popularity"] < 0.6
