"""Examples that are copied from an impression's bytes are those that encoding them field by field gives."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streams.join_examples import ExampleMaker
from streams.join_state import Slot
from streams.labels import LabelRules
from streams.opened import opened
from streams.records import (
    SCHEMA_VERSION,
    Action,
    Assignment,
    Candidate,
    Example,
    Impression,
    ModelVersion,
    Shown,
    UsedFeatures,
)
from streams.settings import StreamsSettings
from streams.topics import EXAMPLES, IMPRESSIONS

SETTINGS = StreamsSettings()
RULES = LabelRules(SETTINGS.tasks, SETTINGS.labels)
texts = st.text(max_size=300)
LENGTHS = (30, 31, 32, 255, 256, 70_000)
POSITIONS = (0, 1, 9, 10, 127, 128, 999, 1_000, 70_000, -1)
names = st.one_of(st.text(min_size=1, max_size=40), st.sampled_from(["x" * size for size in LENGTHS]))
floats = st.floats(allow_nan=False)
shown = st.builds(
    Shown,
    item=names,
    position=st.sampled_from(POSITIONS),
    score=floats,
    propensity=floats,
    source=texts,
    explored=st.booleans(),
    features=st.lists(floats, max_size=8),
    features_at=st.integers(0, 2**53),
    team=st.one_of(st.none(), texts),
)
impressions = st.builds(
    Impression,
    v=st.just(SCHEMA_VERSION),
    request_id=names,
    ts=st.integers(0, 2**53),
    user=names,
    items=st.lists(shown, min_size=1, max_size=4),
    session=st.one_of(st.none(), texts),
    scene=texts,
    context=st.dictionaries(texts, st.one_of(texts, floats, st.booleans()), max_size=3),
    arms=st.lists(st.builds(Assignment, texts, texts, texts, texts, st.integers(0, 9), texts), max_size=2),
    policy=texts,
    model=st.builds(ModelVersion, st.integers(0, 99), st.integers(0, 99), st.dictionaries(texts, st.integers(0, 9))),
    user_features=st.one_of(
        st.none(), st.builds(UsedFeatures, texts, st.integers(0, 9), st.integers(0, 9), st.dictionaries(texts, floats))
    ),
    candidates=st.lists(st.builds(Candidate, texts, floats, texts), max_size=2),
)


def plain(of: Impression, k: int, **more: Any) -> Example:
    """The example of one item, made field by field."""
    one = of.items[k]
    fields: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "example_id": f"{of.request_id}/{one.position}",
        "revision": 0,
        "ts": of.ts,
        "user": of.user,
        "item": one.item,
        "request_id": of.request_id,
        "position": one.position,
        "propensity": one.propensity,
        "scene": of.scene,
        "session": of.session,
        "context": of.context,
        "arms": of.arms,
        "policy": of.policy,
        "model": of.model,
        "user_features": of.user_features,
        "item_features": one.features,
        "negative_rate": 0.5,
    }
    return Example(**(fields | more))


@given(impressions)
def test_negatives_are_encoded_as_field_by_field(impression: Impression) -> None:
    maker = ExampleMaker(RULES, 0.5)
    negatives = maker.negatives()
    negatives.add(IMPRESSIONS.codec.encode(impression))
    labels = maker.labels(Slot(), True, True)
    wanted = [EXAMPLES.codec.encode(plain(impression, k, labels=labels)) for k in range(len(impression.items))]
    assert list(negatives.drain().columns().entries()) == [(impression.user.encode(), data) for data in wanted]


@given(st.lists(st.tuples(impressions, st.sets(st.integers(0, 3))), max_size=5))
def test_items_on_which_somebody_acted_make_no_first_negative(closed: list[tuple[Impression, set[int]]]) -> None:
    maker = ExampleMaker(RULES, 0.5)
    negatives = maker.negatives()
    for impression, spoken in closed:
        negatives.add(IMPRESSIONS.codec.encode(impression), {k for k in spoken if k < len(impression.items)})
    labels = maker.labels(Slot(), True, True)
    wanted = [
        (impression.user.encode(), EXAMPLES.codec.encode(plain(impression, k, labels=labels)))
        for impression, spoken in closed
        for k in range(len(impression.items))
        if k not in spoken
    ]
    made = negatives.drain().columns()
    assert len(made) == len(wanted)
    assert list(made.entries()) == wanted
    assert not negatives.drain()


@given(impressions, st.booleans(), st.integers(0, 3), st.booleans(), names, st.one_of(st.none(), floats))
def test_what_an_action_made_is_encoded_as_field_by_field(
    impression: Impression, late: bool, revisions: int, negative: bool, event: str, value: float | None
) -> None:
    maker = ExampleMaker(RULES, 0.5)
    slot = Slot(revisions=revisions, negative=negative)
    old = maker.labels(slot, negative, True)
    slot.mark({"click": 1.0}, "click", impression.ts)
    new = maker.labels(slot, negative, True)
    action = Action(
        ts=1, user=impression.user, item="i", kind="click", value=value, event_id=event, received_at=1, request_id="r"
    )
    made = maker.joined(opened(IMPRESSIONS.codec.encode(impression)), 0, slot, new, old, action, late)
    wanted = plain(
        impression,
        0,
        revision=revisions,
        labels=new,
        negative_emitted=negative,
        late=late,
        correction=negative and revisions > 0,
        cause=event,
        kind="click",
        value=value,
    )
    assert made == EXAMPLES.codec.encode(wanted)


def test_an_impression_of_an_older_writer_has_the_defaults_of_what_it_lacks() -> None:
    old = msgspec.msgpack.encode([1, "r", 5, "u", [["i", 0, 0.5, 0.5, "x", False]]])
    maker = ExampleMaker(RULES, 0.5)
    negatives = maker.negatives()
    negatives.add(old)
    wanted = plain(IMPRESSIONS.codec.decode(old), 0, labels=maker.labels(Slot(), True, True))
    assert list(negatives.drain().columns().entries()) == [(b"u", EXAMPLES.codec.encode(wanted))]
    assert opened(old).arm() == ""


def test_the_arm_is_that_of_the_first_experiment() -> None:
    arms = [Assignment("e", arm, "user", "u", 1, "full") for arm in ("online", "other")]
    impression = Impression(1, "r", 5, "u", [], arms=arms)
    assert opened(IMPRESSIONS.codec.encode(impression)).arm() == "online"
