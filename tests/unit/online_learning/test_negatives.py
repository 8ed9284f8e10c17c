"""Organic positives are told from items of the stream: taste is learned, and impressions stay calibrated."""

import msgspec
import numpy as np

from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.models.dense_features import PRIOR_LOGIT
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings, NegativesSettings
from online_learning.state import TrainerState
from online_learning.table.version import pack_version
from streams.records import SCHEMA_VERSION, Example, Impression, Label, LabelState, Shown
from streams.settings import TaskSettings

FIELDS = (FieldSettings(name="user", side="user", source="id"), FieldSettings(name="item", side="item", source="id"))
ITEMS = 40
# How often an item comes before anybody's eyes: the first ten times as often as the last.
REACH = np.geomspace(10, 1, ITEMS) / np.geomspace(10, 1, ITEMS).sum()
USERS = 20


def settings(per_positive: int) -> LearningSettings:
    return LearningSettings(
        tasks=(TaskSettings(name="click", shown_is_negative=True),),
        model=ModelSettings(dim=8, hidden=(8,), fields=FIELDS),
        negatives=NegativesSettings(per_positive=per_positive, window=2_000),
    )


def likes(user: int, item: int) -> bool:
    return user % 2 == item % 2


def click_rate(user: int, item: int) -> float:
    return 0.18 if likes(user, item) else 0.02


def organic(number: int, user: int, item: int) -> Example:
    labels = {"click": Label(LabelState.OBSERVED, 1.0)}
    return Example(SCHEMA_VERSION, f"e{number}", 0, number, f"u{user}", f"i{item}", labels, organic=True)


def organic_clicks(count: int, random: np.random.Generator) -> list[Example]:
    """What users click who come upon items by themselves, each as often as its reach says."""
    found: list[Example] = []
    while len(found) < count:
        user, item = int(random.integers(USERS)), int(random.choice(ITEMS, p=REACH))
        if random.random() < click_rate(user, item):
            found.append(organic(len(found), user, item))
    return found


def shown(count: int, random: np.random.Generator) -> list[Example]:
    """Examples of impressions of items drawn uniformly."""
    found = []
    for number in range(count):
        user, item = int(random.integers(USERS)), int(random.integers(ITEMS))
        click = float(random.random() < click_rate(user, item))
        labels = {"click": Label(LabelState.OBSERVED, click)}
        name = f"r{number}"
        found.append(
            Example(SCHEMA_VERSION, f"{name}/0", 0, number, f"u{user}", f"i{item}", labels, request_id=name, position=0)
        )
    return found


def learned(per_positive: int, examples: list[Example]) -> Learners:
    these = Learners(settings(per_positive), Catalogue())
    for step, start in enumerate(range(0, len(examples), 32), start=1):
        these.learn(examples[start : start + 32], start, pack_version(1, step))
    return these


def probabilities(these: Learners) -> np.ndarray:
    """f32 [USERS, ITEMS], as for items shown at the first place."""
    slots = [Shown(f"i{item}", 0, 0.0, 1.0, "s", False) for item in range(ITEMS)]
    impressions = [Impression(SCHEMA_VERSION, f"q{user}", 10**6, f"u{user}", slots) for user in range(USERS)]
    batch = these._batcher.of_impressions(impressions)
    return these.online.predict(batch)[:, 0].reshape(USERS, ITEMS)


LIKED = np.array([[likes(user, item) for item in range(ITEMS)] for user in range(USERS)])
RATES = np.where(LIKED, 0.18, 0.02)


def auc(said: np.ndarray) -> float:
    return float((said[LIKED][:, None] > said[~LIKED]).mean())


def test_fed_with_organic_positives_only_it_tells_what_is_liked_and_does_not_call_all_of_it_so():
    examples = organic_clicks(6_000, np.random.default_rng(0))
    with_negatives, alone = probabilities(learned(4, examples)), probabilities(learned(0, examples))
    assert auc(with_negatives) > 0.95
    assert auc(with_negatives) > auc(alone) + 0.05
    # Nothing said how often what is shown is clicked: it stays around the prior, where alone everything is clicked.
    assert 0.03 < with_negatives.mean() < 0.2
    assert alone.mean() > 0.5
    # Among what a user likes, reach is no merit: an item is not called good for coming before more eyes.
    often, seldom = with_negatives[:, :10][LIKED[:, :10]].mean(), with_negatives[:, -10:][LIKED[:, -10:]].mean()
    assert 0.5 < often / seldom < 2.0


def test_what_impressions_teach_stays_calibrated_beside_as_many_organic_positives():
    random = np.random.default_rng(1)
    impressions, clicks = shown(12_000, random), organic_clicks(1_500, random)
    mixed: list[Example] = []
    for k, click in enumerate(clicks):
        mixed += [*impressions[8 * k : 8 * k + 8], click]
    with_negatives, alone, none = (
        probabilities(learned(per_positive, examples))
        for per_positive, examples in ((4, mixed), (0, mixed), (4, impressions))
    )
    wrong = {name: abs(np.log(p.mean() / RATES.mean())) for name, p in (("with", with_negatives), ("alone", alone))}
    assert wrong["with"] < 0.15
    assert wrong["with"] < wrong["alone"]
    # And the organic positives help to tell what is liked.
    assert auc(with_negatives) > auc(none) - 0.005


def test_draws_go_on_from_a_checkpoint_as_if_nothing_had_been():
    examples = organic_clicks(400, np.random.default_rng(2))
    whole, first = learned(3, examples), learned(3, examples[:192])
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(first.state()), type=TrainerState)
    second = Learners(settings(3), Catalogue())
    second.online.restore(first.online.table.snapshot(), first.online.dense_parameters(), kept.optimizer)
    second.restore(kept, first.counters)
    for step, start in enumerate(range(192, 400, 32), start=7):
        second.learn(examples[start : start + 32], start, pack_version(1, step))
    assert second.online.table.digest() == whole.online.table.digest()
    assert second.counters == whole.counters
    assert whole.counters.sampled == 3 * 400


def test_only_an_organic_positive_gets_negatives_and_only_where_what_is_shown_is_one():
    learners = learned(4, [organic(0, 0, 0)])
    negatives, batches = learners._negatives, learners._batcher
    click, none = np.array([[1.0]], np.float32), np.array([[0.0]], np.float32)
    [seen] = shown(1, np.random.default_rng(0))
    taken = organic(1, 0, 1)
    assert negatives.of_organic([seen], batches.of_examples([seen]), click) is None
    assert negatives.of_organic([taken], batches.of_examples([taken]), none) is None
    both = [seen, taken]
    drawn = negatives.of_organic(both, batches.of_examples(both), np.ones((2, 1), np.float32))
    assert drawn is not None
    assert drawn.batch.rows == 4
    assert (drawn.labels == 0).all()
    # Impressions are learned as they are; the others' odds are those of being told from four.
    np.testing.assert_allclose(drawn.offsets[:, 0], [0.0] + [-PRIOR_LOGIT - np.log(4)] * 5, rtol=1e-6)
    # And the five weigh as one.
    np.testing.assert_allclose(drawn.shares[:, 0], [1.0] + [0.2] * 5, rtol=1e-6)


def test_a_task_without_negatives_of_its_own_is_learned_as_it_is():
    told = msgspec.structs.replace(settings(4), tasks=(TaskSettings(name="rating"),))
    these = Learners(told, Catalogue())
    example = msgspec.structs.replace(organic(0, 0, 0), labels={"rating": Label(LabelState.OBSERVED, 1.0)})
    these.learn([example], 0, pack_version(1, 1))
    assert (these.counters.learned, these.counters.sampled) == (1, 0)
