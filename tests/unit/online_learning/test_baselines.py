"""The baselines: what they say, and that their memory is bounded whatever the stream brings."""

import numpy as np
import pytest

from online_learning import baselines
from online_learning.baselines import Lesson, Popularity, RiverLinear
from online_learning.batches import Batch
from online_learning.models.fields import Side
from online_learning.models.ranking import Undone


def of(items: list[str]) -> Batch:
    """A batch of which only the items' names are told."""
    nothing = np.empty(0, np.uint64)
    side = Side(nothing, nothing.astype(np.uint16), np.zeros(len(items) + 1, np.int64), len(items), 1)
    return Batch(side, np.zeros((len(items), 0), np.float32), items)


def learn(one: Popularity, items: list[str], clicks: list[float]) -> None:
    labels = np.array(clicks, np.float32)[:, None]
    one.learn(Lesson(of(items), labels, np.ones_like(labels)))


def test_popularity_is_the_items_rate_shrunk_towards_that_of_all() -> None:
    one = Popularity(1)
    learn(one, ["a"] * 10 + ["b"] * 10, [1.0] * 10 + [0.0] * 10)
    everyone = 11 / 22
    assert one.predict(of(["a", "b", "new"]))[:, 0] == pytest.approx(
        [(10 + 10 * everyone) / 20, 10 * everyone / 20, everyone]
    )


def test_what_was_learned_longest_ago_is_forgotten_first_also_after_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_ITEMS", 3)
    one, again = Popularity(1), Popularity(1)
    learn(one, ["a", "b", "c", "a"], [1.0] * 4)
    again.restore(one.state())
    for these in (one, again):
        learn(these, ["d"], [1.0])
        said = these.predict(of(["a", "b", "c", "d", "new"]))[:, 0]
        assert said[1] == said[4] and (said[[0, 2, 3]] > said[4]).all()
    assert again.state() == one.state()


@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_what_popularity_takes_back_was_never_there(weight: float) -> None:
    one, other = Popularity(1), Popularity(1)
    ones = np.ones((2, 1), np.float32)
    for these in (one, other):
        learn(these, ["a", "b", "c"], [1.0, 0.0, 0.0])
    one.learn(Lesson(of(["a", "b"]), 0 * ones, weight * ones))
    one.learn(Lesson(of(["a", "b"]), ones, ones, Undone(0 * ones, weight * ones)))
    learn(other, ["a", "b"], [1.0, 1.0])
    assert one.predict(of(["a", "b", "c", "new"])) == pytest.approx(other.predict(of(["a", "b", "c", "new"])))


def test_popularity_takes_nothing_back_of_an_item_that_it_forgot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MAX_ITEMS", 1)
    one, ones = Popularity(1), np.ones((1, 1), np.float32)
    one.learn(Lesson(of(["a"]), 0 * ones, 20 * ones))
    learn(one, ["b"], [0.0])
    one.learn(Lesson(of(["a"]), ones, ones, Undone(0 * ones, 20 * ones)))
    # Of all items: a prior of 1 in 2, the click, the other item's 0.
    assert one.predict(of(["a", "new"]))[:, 0] == pytest.approx([(1 + 10 * 2 / 4) / 11, 2 / 4])


def test_a_regression_takes_back_by_what_it_says_itself() -> None:
    """Back by most of the step that it took: AdaGrad's steps get shorter."""
    one, ones = RiverLinear(1, learning_rate=1e-3), np.ones((1, 1), np.float32)
    batch = Batch(Side(np.array([7], np.uint64), np.zeros(1, np.uint16), np.array([0, 1]), 1, 1), ones[:, :0], ["a"])
    before = one.predict(batch)[0, 0]
    one.learn(Lesson(batch, 0 * ones, 20 * ones))
    shown = one.predict(batch)[0, 0]
    assert shown < before - 1e-4
    one.learn(Lesson(batch, np.nan * ones, ones, Undone(0 * ones, 20 * ones)))
    assert before + 1e-4 > one.predict(batch)[0, 0] > shown + 0.6 * (before - shown)
