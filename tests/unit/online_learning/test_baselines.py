"""The baselines: what they say, and that their memory is bounded whatever the stream brings."""

import numpy as np
import pytest

from online_learning import baselines
from online_learning.baselines import Popularity
from online_learning.batches import Batch
from online_learning.models.fields import Side


def of(items: list[str]) -> Batch:
    """A batch of which only the items' names are told."""
    nothing = np.empty(0, np.uint64)
    side = Side(nothing, nothing.astype(np.uint16), np.zeros(len(items) + 1, np.int64), len(items), 1)
    return Batch(side, np.zeros((len(items), 0), np.float32), items)


def learn(one: Popularity, items: list[str], clicks: list[float]) -> None:
    labels = np.array(clicks, np.float32)[:, None]
    one.learn(of(items), labels, np.ones_like(labels))


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
