"""Impressions that are read without their features say what reading all of them says, of good bytes and of bad ones."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streams.codec import Unreadable
from streams.packed.impressions import read_impressions
from streams.records import Impression
from streams.topics import IMPRESSIONS
from tests.unit.streams.test_join_examples import impressions

# What a slot may have in the place of its features, by some other writer.
odd = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=40), st.binary()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=20,
)


@given(st.lists(impressions, max_size=5))
def test_good_ones_say_all_that_was_written(these: list[Impression]) -> None:
    raws = [IMPRESSIONS.codec.encode(one) for one in these]
    assert [msgspec.msgpack.encode(found) for found in read_impressions(raws)] == raws


@given(impressions, st.lists(odd, min_size=1, max_size=3), st.integers(0, 9))
def test_odd_features_are_judged_by_who_reads_all(one: Impression, features: list[object], slot: int) -> None:
    raws = []
    for value in features:
        document = msgspec.msgpack.decode(IMPRESSIONS.codec.encode(one))
        document[4][slot % len(one.items)][6] = value
        raws.append(msgspec.msgpack.encode(document))
    good = IMPRESSIONS.codec.encode(one)
    found = read_impressions([good, *raws, good])
    for raw, each in zip([good, *raws, good], found, strict=True):
        agree_on_whether(raw, each)


@given(impressions, st.data())
def test_broken_bytes_are_refused_as_others_refuse_them(one: Impression, data: st.DataObject) -> None:
    raw = bytearray(IMPRESSIONS.codec.encode(one))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for broken, found in zip((bytes(raw), cut), read_impressions([bytes(raw), cut]), strict=True):
        agree_on_whether(broken, found)


def agree_on_whether(raw: bytes, found: Impression | Unreadable) -> None:
    """Both read it, or neither does."""
    try:
        IMPRESSIONS.codec.decode(raw)
    except Unreadable:
        assert isinstance(found, Unreadable)
    else:
        assert isinstance(found, Impression)
