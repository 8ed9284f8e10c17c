"""Position is learned as a feature, so that what was shown first is not taken for what is good."""

import numpy as np
import pytest

from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings
from online_learning.table.version import pack_version
from streams.records import SCHEMA_VERSION, Example, Impression, Label, LabelState, Shown
from streams.settings import TaskSettings

SETTINGS = LearningSettings(
    tasks=(TaskSettings(name="click", shown_is_negative=True),),
    model=ModelSettings(
        dim=4,
        hidden=(8,),
        fields=(
            FieldSettings(name="user", side="user", source="id"),
            FieldSettings(name="item", side="item", source="id"),
        ),
    ),
)
# The chance that a slot is looked at, and that an item is clicked once it is.
LOOKED_AT = 1.0 / np.arange(1, 9)
ATTRACTION = {"dull": 0.3, "bright": 0.6}


@pytest.fixture(scope="module")
def learned() -> Learners:
    """From traffic that puts the dull item first and the bright one last, three times in four."""
    these, random = Learners(SETTINGS, Catalogue()), np.random.default_rng(0)
    clicks = {name: [0.0, 0.0] for name in ATTRACTION}
    for number in range(700):
        examples = []
        for k in range(64):
            name = str(random.choice(list(ATTRACTION)))
            usual = 0 if name == "dull" else 7
            position = usual if random.random() < 0.75 else int(random.integers(8))
            click = float(random.random() < LOOKED_AT[position] * ATTRACTION[name])
            clicks[name][0] += click
            clicks[name][1] += 1
            labels = {"click": Label(LabelState.OBSERVED, click)}
            request = f"r{number}-{k}"
            examples.append(
                Example(
                    SCHEMA_VERSION,
                    f"{request}/{position}",
                    0,
                    number,
                    f"u{number % 5}",
                    name,
                    labels,
                    request_id=request,
                    position=position,
                )
            )
        these.learn(examples, number, pack_version(1, number + 1))
    assert clicks["dull"][0] / clicks["dull"][1] > clicks["bright"][0] / clicks["bright"][1]
    return these


def said(these: Learners, item: str, position: int) -> float:
    seen = Impression(SCHEMA_VERSION, "q", 10**6, "u1", [Shown(item, position, 0.0, 1.0, "s", False)])
    return float(these.online.predict(these._batcher.of_impressions([seen]))[0, 0])


def test_further_down_the_same_item_is_expected_to_be_clicked_less(learned: Learners):
    for item in ATTRACTION:
        expected = [said(learned, item, position) for position in (0, 1, 3, 7)]
        assert expected == sorted(expected, reverse=True)
        assert expected[0] > 2 * expected[-1]


def test_at_one_and_the_same_position_the_better_item_is_the_better_one(learned: Learners):
    """Of the clicks as they came, the dull item had the higher rate."""
    for position in (0, 3, 7):
        assert said(learned, "bright", position) > said(learned, "dull", position)
