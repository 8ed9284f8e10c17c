"""Columns of ids are the batches that the live encoder makes of the same values."""

import numpy as np

from online_learning.models.fields import FieldEncoder
from online_learning.settings import ModelSettings
from online_learning.studies.columns import settings_of
from online_learning.studies.datasets.labelled import Labelled


def test_rows_have_the_keys_spaces_and_bags_of_the_live_encoder() -> None:
    rows = Labelled({"user": np.array([3, 4, 3]), "shop": np.array([7, -1, 8])}, np.array([1, 0, 1]))
    settings = settings_of(rows.fields, ModelSettings(), sparse_learning_rate=0.1, seed=0)
    encoder = FieldEncoder(settings.model)
    contexts = [{"user": "3", "shop": "7"}, {"user": "4"}, {"user": "3", "shop": "8"}]
    bags = [encoder.user_bags("", None, (), "", context) for context in contexts]
    expected = encoder.combine(bags, [encoder.item_bags("any")] * 3)
    found = rows.columns().batch(0, 3, dense=2).side
    assert found.keys.tolist() == expected.keys.tolist()
    assert found.spaces.tolist() == expected.spaces.tolist()
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert (found.rows, found.fields) == (3, 2)


def test_a_batch_holds_the_rows_asked_for_and_no_more_than_there_are() -> None:
    rows = Labelled({"user": np.arange(5)}, np.zeros(5))
    columns = rows.columns()
    assert columns.batch(3, 9, dense=4).side.keys.tolist() == columns.keys[3:, 0].tolist()
    assert columns.batch(3, 9, dense=4).dense.shape == (2, 4)
    assert rows.take(np.array([4, 0])).ids["user"].tolist() == [4, 0]
