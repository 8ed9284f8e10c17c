"""The whole pipeline on a mirror as the replica writes it."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from features.online import UserRow
from online_learning.models.dense_features import dense_features, item_features, raw_user, user_features
from online_learning.models.fields import FieldEncoder
from online_learning.models.registry import new_scorer
from online_learning.settings import LearningSettings, ModelName, ModelSettings
from serving.pipeline.pipeline import Answer, Pipeline
from serving.pipeline.request import KnownContext, Request
from serving.replica.item_vectors import pooled_rows
from serving.settings import PipelineSettings, ServingSettings
from serving.shared.mirror import Mirror
from streams.records import ArmDefinition, Experiment, UsedFeatures
from streams.settings import StreamsSettings, Target, TaskSettings
from tests.serving_world import World, items

NOW = 1_700_000_000_000
TASKS = StreamsSettings().tasks


DWELL = TaskSettings(name="dwell", target=Target.VALUE)


def settings(model: ModelName = "deepfm", tasks: tuple[TaskSettings, ...] = TASKS, **pipeline: Any) -> ServingSettings:
    learning = LearningSettings(tasks=tasks, model=ModelSettings(name=model))
    return ServingSettings(learning=learning, pipeline=PipelineSettings(**pipeline))


def only(policy: str, name: str = "test") -> Experiment:
    """An experiment in which everybody has the arm `policy`."""
    return Experiment(name=name, control=policy, arms=[ArmDefinition(name=policy, policy=policy)])


def request(user: str = "u1", n: int = 5, ts: int = NOW, **context: Any) -> Request:
    return Request(request_id="r1", ts=ts, user=user, n=n, context=KnownContext(**context))


class Serving:
    """A world and the pipeline that reads it."""

    def __init__(self, folder: Path, model: ModelName = "deepfm", **pipeline: Any) -> None:
        self.settings = settings(model, **pipeline)
        self.world = World(folder, self.settings)
        self.rows: dict[str, UserRow] = {}
        self.pipeline = Pipeline(self.settings, Mirror(folder), self.rows.get, np.random.default_rng(3))

    def answer(self, *args: Any, **kwargs: Any) -> Answer:
        return self.pipeline.answer(request(*args, **kwargs))


@pytest.fixture
def serving(tmp_path: Path, request: pytest.FixtureRequest) -> Serving:
    """40 items in two scenes, a trained model (`deepfm` unless the test names others), no exploration."""
    serving = Serving(tmp_path, getattr(request, "param", "deepfm"), explore=0.0)
    serving.world.put_items(items(40, scenes=("home", "search")))
    serving.world.put_user("u1")
    serving.world.put_dense(version=7)
    serving.world.publish(sequence=12, learned={0: 100, 1: 90})
    return serving


def test_before_the_replica_has_written_anything_the_answer_is_empty(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "not there yet")
    pipeline = Pipeline(settings(), mirror, lambda _: None, np.random.default_rng(0))
    answer = pipeline.answer(request())
    assert (answer.items, answer.impression) == ([], None)
    assert answer.versions.fallback


def test_the_replica_may_come_after_the_server(tmp_path: Path) -> None:
    serving = Serving(tmp_path / "later")
    assert serving.answer().items == []
    serving.world.put_items(items(10))
    serving.world.publish()
    assert len(serving.answer().items) == 5


def test_without_a_published_model_popularity_answers_and_says_so(tmp_path: Path) -> None:
    serving = Serving(tmp_path, explore=0.0)
    serving.world.put_items(items(10))
    for k in range(10):
        serving.world.put_stats(f"i{k}", "", 100, {3: 60, 8: 40}.get(k, 10), NOW)
    serving.world.publish()
    answer = serving.answer(n=2)
    assert answer.items == ["i3", "i8"]
    assert answer.versions.policy == "popularity"
    assert "no dense parameters" in answer.versions.fallback


def test_parameters_of_another_model_are_not_used_and_the_answer_says_so(serving: Serving) -> None:
    assert serving.answer().versions.policy == "online"
    serving.world.put_dense(version=8, tasks=1)
    answer = serving.answer()
    assert len(answer.items) == 5
    assert answer.versions.policy == "popularity"
    assert "another model: `bias` has shape (1,), must be (2,)" in answer.versions.fallback


@pytest.mark.parametrize("serving", get_args(ModelName), indirect=True)
def test_the_online_arm_shows_what_the_model_gives_the_highest_probability(serving: Serving, tmp_path: Path) -> None:
    recent = UsedFeatures("user_stats", 4, NOW - 10, {"recent_items": ["i1"], "actions_1d": 3.0})
    serving.rows["u1"] = UserRow(stats=recent, attributes={"segment": "s"})
    answer = serving.answer(n=10)

    # The same by hand over all items: encode, look up, score, sort.
    mirror = Mirror(tmp_path)
    encoder = FieldEncoder(serving.settings.learning.model, mirror.catalogue.item)
    scorer = new_scorer(serving.settings.learning.model, len(TASKS))
    scorer.load(mirror.dense().parameters)
    about, catalogue = encoder.encode_user("u1", {"segment": "s"}, ["i1"]), encoder.encode_items(mirror.catalogue.ids)
    user = pooled_rows(mirror.table, about)  # type: ignore[arg-type]
    rows = pooled_rows(mirror.table, catalogue)  # type: ignore[arg-type]
    stats = np.full((40, 6), np.nan, np.float32)
    about_user = user_features(np.array([raw_user(recent.values)]), float(NOW))
    matches = encoder.matches(about, catalogue)
    dense = dense_features(about_user, item_features(stats), np.zeros(40, np.int64), matches)
    clicks = scorer.score_request(user, rows, dense)[:, 0]

    best = np.argsort(-clicks)[:10]
    assert answer.items == [f"i{k}" for k in best]
    assert answer.scores == pytest.approx(clicks[best].tolist(), rel=1e-5)
    assert answer.versions.policy == "online"
    assert answer.versions.fallback == ""


def test_every_slot_is_scored_as_at_the_one_position_that_the_settings_fix(tmp_path: Path) -> None:
    answers = {}
    for position in (0, 6):
        # The same world, drawn anew from its seed.
        serving = Serving(tmp_path / str(position), explore=0.0, position=position)
        serving.world.put_items(items(40))
        serving.world.put_user("u1")
        serving.world.put_dense()
        serving.world.publish()
        answers[position] = serving.answer(n=10)
        assert answers[position].impression is not None
        # The impression says where it was really shown: that is what is learned from.
        assert [slot.position for slot in answers[position].impression.items] == list(range(10))
        # An item scores the same wherever it comes to stand: alone at the top, or among ten.
        others = answers[position].items[:9]
        [alone] = serving.answer(n=1, exclude=others).scores
        assert alone == pytest.approx(answers[position].scores[9], rel=1e-6)
    assert answers[0].scores != answers[6].scores


def test_an_unknown_user_gets_a_full_list(serving: Serving) -> None:
    assert len(set(serving.answer(user="never seen", n=20).items)) == 20


@pytest.mark.parametrize("policy", ["online", "popularity", "random"])
def test_who_asks_for_more_than_a_source_brings_gets_them_while_there_are_any(tmp_path: Path, policy: str) -> None:
    serving = Serving(tmp_path, retrieve=5, explore_pool=5, max_items=30)
    serving.world.put_items(items(40))
    serving.world.put_dense()
    for k in range(40):
        serving.world.put_stats(f"i{k}", "", 100, k, NOW)
    serving.world.put_experiments(only(policy))
    serving.world.publish()
    assert len(set(serving.answer(n=30).items)) == 30
    assert len(serving.answer(n=60).items) == 40


def test_a_scene_shows_its_own_items_and_an_unknown_one_none(serving: Serving) -> None:
    shown = serving.answer(n=40, scene="search").items
    assert sorted(shown) == sorted(f"i{k}" for k in range(1, 40, 2))
    assert serving.answer(scene="nowhere").items == []


def test_excluded_and_unavailable_items_are_never_shown(serving: Serving) -> None:
    gone = msgspec.structs.replace(items(1)[0], item="i4", available=False)
    serving.world.put_items([gone])
    serving.world.publish()
    shown = serving.answer(n=40, exclude=["i0", "i1", "unknown"]).items
    assert len(shown) == 37
    assert not {"i0", "i1", "i4"} & set(shown)


def test_an_item_that_was_just_added_can_be_shown(serving: Serving) -> None:
    serving.answer()
    new = msgspec.structs.replace(items(1)[0], item="new", scene="new scene")
    serving.world.put_items([new])
    serving.world.publish()
    assert serving.answer(scene="new scene").items == ["new"]


def test_an_arm_ranks_by_its_own_counts_and_the_organic_ones(tmp_path: Path) -> None:
    serving = Serving(tmp_path, explore=0.0)
    serving.world.put_items(items(3))
    serving.world.put_stats("i0", "popularity", 100, 10, NOW)
    serving.world.put_stats("i0", "online", 100, 90, NOW)
    serving.world.put_stats("i1", "popularity", 100, 20, NOW)
    serving.world.put_stats("i2", "popularity", 100, 10, NOW)
    serving.world.put_stats("i2", "", 100, 90, NOW)
    serving.world.put_experiments(only("popularity"))
    serving.world.publish()
    answer = serving.answer()
    assert answer.items == ["i2", "i1", "i0"]
    assert answer.versions.arms == {"test": "popularity"}


def test_an_arm_whose_policy_is_unknown_answers_by_popularity_and_says_so(serving: Serving) -> None:
    serving.world.put_experiments(only("typo"))
    serving.world.publish()
    answer = serving.answer()
    assert len(answer.items) == 5
    assert answer.versions.policy == "popularity"
    assert "'typo' is unknown" in answer.versions.fallback


def test_an_experiment_of_another_scene_or_an_ended_one_does_not_decide(serving: Serving) -> None:
    elsewhere = msgspec.structs.replace(only("popularity", "a"), scene="search")
    ended = msgspec.structs.replace(only("popularity", "b"), active=False)
    serving.world.put_experiments(elsewhere, ended)
    serving.world.publish()
    assert serving.answer(scene="home").versions.arms == {}
    assert serving.answer(scene="home").versions.policy == "online"
    assert serving.answer(scene="search").versions.arms == {"a": "popularity"}


def test_the_random_policy_gives_every_item_the_same_chance(serving: Serving) -> None:
    serving.world.put_experiments(only("random"))
    serving.world.publish()
    impression = serving.answer(n=3).impression
    assert impression is not None
    assert [slot.propensity for slot in impression.items] == pytest.approx([1 / 40, 1 / 39, 1 / 38])
    seen = {serving.answer(n=1).items[0] for _ in range(300)}
    assert len(seen) == 40


def test_cold_items_are_explored_and_every_slot_has_its_propensity(tmp_path: Path) -> None:
    serving = Serving(tmp_path, explore=0.5, explore_pool=10, retrieve=10)
    serving.world.put_items(items(60))
    for k in range(50):
        serving.world.put_stats(f"i{k}", "", 1_000, 500 - k, NOW)
    serving.world.put_experiments(only("popularity"))
    serving.world.publish()
    first: dict[str, float] = {}
    shown: dict[str, int] = {}
    for _ in range(1_000):
        impression = serving.answer(n=1).impression
        assert impression is not None
        slot = impression.items[0]
        first[slot.item] = slot.propensity
        shown[slot.item] = shown.get(slot.item, 0) + 1
    assert first["i0"] == pytest.approx(0.5 + 0.5 / 10)
    assert set(first) == {f"i{k}" for k in (0, 1, 2, 3, 4, 55, 56, 57, 58, 59)}, "half the pool is cold, newest first"
    assert sum(first.values()) == pytest.approx(1.0)
    for item, p in first.items():
        assert shown[item] / 1_000 == pytest.approx(p, abs=5 * (p * (1 - p) / 1_000) ** 0.5)


def test_the_answer_claims_what_the_tables_held_before_they_were_read(serving: Serving) -> None:
    versions = serving.answer().versions
    assert (versions.epoch, versions.dense, versions.sparse) == (1, 7, {"sparse": 12})
    assert versions.learned == {0: 100, 1: 90}


def test_the_impression_explains_the_answer(serving: Serving) -> None:
    stats = UsedFeatures("user_stats", 4, NOW - 10, {"recent_items": [], "actions_1d": 3.0})
    serving.rows["u1"] = UserRow(stats=stats)
    serving.world.put_experiments(only("online"))
    for k in range(40):
        serving.world.put_stats(f"i{k}", "online", 10.0 * k, float(k), NOW - 5_000)
    serving.world.publish(sequence=13)
    answer = serving.answer(n=5, scene="home", session="s1")
    impression = answer.impression
    assert impression is not None
    assert (impression.request_id, impression.user, impression.ts) == ("r1", "u1", NOW)
    assert (impression.scene, impression.session, impression.policy) == ("home", "s1", "online")
    assert [(a.experiment, a.arm, a.unit) for a in impression.arms] == [("test", "online", "u1")]
    assert impression.model.sparse == {"sparse": 13}
    assert impression.user_features == stats
    assert [slot.item for slot in impression.items] == answer.items
    assert [slot.position for slot in impression.items] == list(range(5))
    for slot in impression.items:
        assert slot.features[2] == pytest.approx(10.0 * int(slot.item[1:]), rel=1e-3)
        assert slot.features_at == NOW - 5_000
        assert slot.source
    others = [candidate.item for candidate in impression.candidates]
    assert len(others) == serving.settings.pipeline.logged_candidates
    assert not set(others) & set(answer.items)


def test_a_scene_can_be_ranked_by_a_task_of_its_own(tmp_path: Path) -> None:
    serving = Serving(tmp_path, explore=0.0, rank_by_scene={"search": "rating"})
    serving.world.put_items(items(40, scenes=("search",)))
    serving.world.put_dense()
    serving.world.publish()
    assert serving.answer(n=40, scene="search").items != serving.answer(n=40).items


def test_a_replica_that_starts_anew_is_followed(serving: Serving, tmp_path: Path) -> None:
    serving.answer()
    anew = World(tmp_path, serving.settings, seed=5, incarnation=2)
    anew.put_items([msgspec.structs.replace(item, item=f"other-{item.item}") for item in items(8)])
    anew.put_dense(version=8)
    anew.publish(sequence=99)
    answer = serving.answer(n=20)
    assert sorted(answer.items) == sorted(f"other-i{k}" for k in range(8))
    assert answer.versions.sparse == {"sparse": 99}


@pytest.mark.parametrize("model", get_args(ModelName))
def test_a_value_task_ranks_by_its_value_and_weighs_by_its_log(tmp_path: Path, model: ModelName) -> None:
    answers: dict[str, dict[str, float]] = {}
    several: dict[str, dict[str, Any]] = {
        "click": {},
        "dwell": {"rank_by": "dwell"},
        "both": {"rank_weights": {"click": 1.0, "dwell": 0.05}},
        "click alone": {"rank_weights": {"click": 1.0}},
    }
    for name, pipeline in several.items():
        # The same world, drawn anew from its seed.
        serving = Serving(tmp_path / name, model, tasks=(*TASKS, DWELL), explore=0.0, **pipeline)
        serving.world.put_items(items(12))
        serving.world.put_user("u1")
        serving.world.put_dense(values=(3.0, 0.5))
        serving.world.publish()
        answer = serving.answer(n=12)
        assert answer.versions.policy == "online"
        assert answer.scores == sorted(answer.scores, reverse=True)
        answers[name] = dict(zip(answer.items, answer.scores, strict=True))
    click, dwell = answers["click"], answers["dwell"]
    # In its own units: about e**3 seconds.
    assert 2.0 < np.log1p(list(dwell.values())).mean() < 4.0
    assert answers["click alone"] == pytest.approx(click, rel=1e-5)
    assert answers["both"] == pytest.approx({k: click[k] + 0.05 * np.log1p(dwell[k]) for k in click}, rel=1e-5)
