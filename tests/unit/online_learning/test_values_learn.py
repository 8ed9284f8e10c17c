"""Dwell in seconds from the events of a world through the join to a learner that beats the running mean."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.settings import LearningSettings, ModelName, ModelSettings
from online_learning.state import TrainerState
from online_learning.table.version import pack_version
from streams.intake import Intake
from streams.join import Join
from streams.local_state import opened
from streams.records import SCHEMA_VERSION, Event, Example, Impression, Shown
from streams.settings import JoinSettings, LabelRule, StreamsSettings, Target, TaskSettings
from streams.simulation.behaviour import choose_user, respond
from streams.simulation.catalogue import Catalogue as Names
from streams.simulation.truth import Truth
from streams.simulation.world import World, WorldSettings
from streams.topics import EXAMPLES, IMPRESSIONS
from tests.windows import merged_errors

T0 = 1_700_000_000_000
SLOTS, REQUESTS, GAP_MS = 5, 3_000, 40
STREAMS = StreamsSettings(
    join=JoinSettings(window_s=1.0, lateness_s=0.0),
    tasks=(TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="dwell", target=Target.VALUE)),
    labels=(LabelRule(task="click", kind="click"), LabelRule(task="dwell", kind="dwell")),
)


class Stream:
    """A world's impressions and events through intake and join, in batches of examples that are in Kafka's order."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.world = World(seed, WorldSettings(users=40, items=60, arrivals_per_minute=0.0, changes_per_hour=0.0))
        self.names = Names(seed=seed, scene="world")
        self.disk = opened(folder, 2**20)
        self.join, self.intake = Join(STREAMS, self.disk), Intake(STREAMS)
        self.truth, self.random = Truth(self.world, SLOTS), np.random.default_rng(seed)

    def batches(self) -> list[tuple[Impression, list[Example]]]:
        """Each impression, of items drawn by their appeal, and the examples that its actions and clocks bring."""
        return [(impression, self._follow(impression)) for impression in map(self._shown, range(REQUESTS))]

    def _shown(self, number: int) -> Impression:
        user, ts = choose_user(self.world, self.random), T0 + number * GAP_MS
        weight = self.truth.attraction[user] / self.truth.attraction[user].sum()
        items = self.random.choice(len(weight), SLOTS, replace=False, p=weight)
        shown = [Shown(self.names.item_id(int(item)), k, 0.0, 1.0, "x", False) for k, item in enumerate(items)]
        return Impression(SCHEMA_VERSION, f"r{number}", ts, self.names.user_id(user), shown, scene="world")

    def _follow(self, impression: Impression) -> list[Example]:
        self.join.impression(impression, IMPRESSIONS.codec.encode(impression), impression.ts)
        user = int(impression.user.rpartition("u")[2])
        numbers = [self.names.item_number(shown.item) for shown in impression.items]
        for k, act in enumerate(respond(self.truth, user, numbers, self.random, dwell=True)):
            event = Event(
                ts=impression.ts + 1 + k,
                user=impression.user,
                item=self.names.item_id(act.item),
                kind=act.kind,
                value=act.value,
                request_id=impression.request_id,
            )
            origin = f"events-0-{impression.request_id}-{k}"
            self.join.action(self.intake.read(msgspec.json.encode(event), origin, impression.ts).action)
        self.join.advance()
        joined = self.join.drain(T0)
        self.disk.apply(joined.changes, None)
        self.join.settle()
        sent = [*joined.closed.columns().entries(), *joined.examples]
        return [EXAMPLES.codec.decode(data or b"") for _, data in sent]

    def learners(self, settings: LearningSettings) -> Learners:
        """New learners that know the world's catalogue."""
        catalogue = Catalogue()
        for user in self.names.users(self.world, 0):
            catalogue.put_user(user.user, user)
        for number in self.world.items:
            item = self.names.item(self.world, number, 0)
            catalogue.put_item(item.item, item)
        return Learners(settings, catalogue)


def settings_of(model: ModelName) -> LearningSettings:
    return LearningSettings(tasks=STREAMS.tasks, model=ModelSettings(name=model, dim=8, hidden=(16,)))


def learn(these: Learners, batches: list[tuple[Impression, list[Example]]], first: int = 0) -> None:
    """Learns from the batch `first` on, eight impressions at a time."""
    for start in range(first, len(batches), 8):
        some = batches[start : start + 8]
        these.see([impression for impression, _ in some], T0 + start)
        these.learn_rest(pack_version(1, 1 + start))
        these.learn([one for _, examples in some for one in examples], T0 + start, pack_version(1, 1 + start))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    return Stream(tmp_path_factory.mktemp("join") / "state")


@pytest.fixture(scope="module")
def batches(stream: Stream) -> list[tuple[Impression, list[Example]]]:
    return stream.batches()


@pytest.mark.parametrize(("model", "margin"), [("deepfm", 0.1), ("dcn_v2", 0.07), ("logistic_regression", 0.05)])
def test_the_learned_dwell_beats_the_running_mean(
    stream: Stream, batches: list[tuple[Impression, list[Example]]], model: ModelName, margin: float
):
    these = stream.learners(settings_of(model))
    learn(these, batches)
    windows = [w for w in these.progressive.take_closed(0, 1) + these.progressive.take_open(0, 1) if w.task == "dwell"]
    # The first 500 are where everybody begins.
    late = {
        name: merged_errors(w for w in windows if w.learner == name and w.window) for name in these.progressive.learners
    }
    assert late["online"].n > 2_000
    assert late["online"].r2 > margin
    assert late["online"].rmse < min(late["river"].rmse, late["popularity"].rmse)
    # Means in the value's units agree, though what is learned are logs.
    last = [w for w in windows if w.learner == "online" and w.window >= 3]
    assert sum(w.prediction_sum for w in last) / sum(w.label_sum for w in last) == pytest.approx(1.0, abs=0.08)
    figures = these.progressive.figures()
    assert {"mae_dwell_online", "rmse_dwell_online", "r2_dwell_online", "auc_click_online"} <= figures.keys()
    assert not {name for name in figures if "dwell" in name and name.startswith(("auc", "log_loss"))}


def test_a_replay_and_a_restart_in_between_give_the_same_bit_for_bit(
    stream: Stream, batches: list[tuple[Impression, list[Example]]]
):
    one, other, restored = (stream.learners(settings_of("deepfm")) for _ in range(3))
    learn(one, batches[:400])
    learn(other, batches[:200])
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(other.state()), type=TrainerState)
    restored.online.restore(
        other.online.table.snapshot(whole=True), other.online.dense_parameters(), state.optimizer, state.towers
    )
    restored.restore(state, other.counters)
    learn(restored, batches[:400], first=200)
    for name, value in one.online.dense_parameters().items():
        np.testing.assert_array_equal(value, restored.online.dense_parameters()[name], err_msg=name)
    assert one.online.table.digest() == restored.online.table.digest()
    assert one.progressive.figures() == restored.progressive.figures()
    assert one.calibration.ratios() == restored.calibration.ratios()
    assert msgspec.msgpack.encode(one.progressive.state()) == msgspec.msgpack.encode(restored.progressive.state())
