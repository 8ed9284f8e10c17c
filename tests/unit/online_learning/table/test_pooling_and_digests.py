"""Pooled rows, their gradients, keys of strings, versions, and digests that tell equal from nearly equal."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.table.digest import Encoding, digest_rows, row_digests
from online_learning.table.keys import KeyHasher, collision_bound, hash_key, hash_keys
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.table.version import pack_version


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    mode=st.sampled_from(["sum", "mean"]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60)
def test_pooling_and_its_gradient_are_those_of_torchs_embedding_bag(lengths: list[int], mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = Table(TableSettings(dim=4), seed)
    slots = table.find_or_insert(np.arange(1, 21, dtype=np.uint64), np.zeros(20, np.uint16), 0, 1)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chosen = slots[rng.integers(0, 20, offsets[-1])]
    absent = rng.random(len(chosen)) < 0.2
    chosen[absent] = -1
    pooled = table.gather_pooled(chosen, offsets, mode)

    weight = torch.tensor(table.gather(slots), requires_grad=True)
    # torch has no absent rows: they are left out of the bags before.
    kept = torch.tensor(chosen[~absent])
    counts = [int((~absent[a:b]).sum()) for a, b in itertools.pairwise(offsets)]
    kept_offsets = torch.tensor(np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64))
    expected = torch.nn.functional.embedding_bag(kept, weight, kept_offsets, mode=mode)
    np.testing.assert_allclose(pooled, expected.detach().numpy(), atol=1e-6)

    upstream = rng.normal(size=pooled.shape).astype(np.float32)
    expected.backward(torch.tensor(upstream))
    spread = table.spread_gradients(chosen, offsets, upstream, mode)
    total = np.zeros((20, 4), np.float32)
    np.add.at(total, chosen[~absent], spread[~absent])
    assert weight.grad is not None
    np.testing.assert_allclose(total, weight.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("offsets", [[0, 5, 3], [0, 99], [-1, 2], []])
def test_wrong_offsets_are_refused(offsets: list[int]) -> None:
    table = Table(TableSettings(dim=2))
    with pytest.raises(ValueError, match="offsets"):
        table.gather_pooled(np.full(6, -1), np.array(offsets, np.int64))


def test_slots_outside_the_table_are_refused() -> None:
    table = Table(TableSettings(dim=2))
    for slot in (-2, 0, 10**12):
        with pytest.raises(ValueError, match="slots"):
            table.gather(np.array([slot]))


def test_the_reserved_key_gets_no_row_and_no_tombstone() -> None:
    table = Table(TableSettings(dim=2))
    with pytest.raises(ValueError, match="reserved"):
        table.find_or_insert(np.zeros(1, np.uint64), np.zeros(1, np.uint16), 0, 1)
    table.republish(np.array([0, 5], np.uint64), 1)
    assert table.take_touched().tolist() == [5]


@pytest.mark.parametrize(
    ("keys", "spaces", "message"),
    [
        (np.array([-1]), [0], "`keys` are int64, must be whole numbers in [0, 18446744073709551615]"),
        (np.array([1.0]), [0], "`keys` are float64"),
        (np.array(["1"]), [0], "`keys` are <U1"),
        (np.array([[1], [2]]), [0, 0], "`keys` has shape (2, 1), must be (n,)"),
        (np.array([1]), [70_000], "`spaces` are int64, must be whole numbers in [0, 65535]"),
        (np.array([1]), [0, 0], "`spaces` has shape (2,), must be (1,)"),
    ],
)
def test_numbers_that_would_change_on_their_way_in_are_refused(keys: Any, spaces: list[int], message: str) -> None:
    table = Table(TableSettings(dim=2))
    with pytest.raises(ValueError, match=re.escape(message)):
        table.find_or_insert(keys, np.array(spaces), 0, 1)
    with pytest.raises(ValueError, match="`slots`"):
        table.gather(np.array([[0]]))
    with pytest.raises(ValueError, match="`slots`"):
        table.gather(np.array([0.5]))
    # Others keep their numbers.
    assert table.find_or_insert(np.array([7, 8], np.int32), np.array([65_535, 0]), 0, 1).tolist() == [0, 1]
    assert table.find(np.array([8, 7])).tolist() == [1, 0]
    assert table.find(np.array([])).tolist() == []


@pytest.mark.parametrize("encoding", list(Encoding))
@given(seed=st.integers(0, 999), rows=st.integers(0, 50))
@settings(max_examples=30)
def test_a_digest_knows_every_bit_and_no_order(encoding: Encoding, seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.choice(2**40, rows, replace=False).astype(np.uint64) + np.uint64(1)
    values = encoding.encode_rows(rng.normal(size=(rows, 3)).astype(np.float32))
    digest = digest_rows(keys, values)
    order = rng.permutation(rows)
    assert digest_rows(keys[order], values[order]) == digest
    if rows:
        assert digest_rows(keys[1:], values[1:]) != digest
        flipped = values.copy()
        bits = flipped.view(np.uint32 if encoding is Encoding.FP32 else np.uint16)
        bits[rng.integers(rows), rng.integers(3)] ^= 1
        assert digest_rows(keys, flipped) != digest
        swapped = values.copy()
        swapped[0] = values[0][::-1]
        assert (digest_rows(keys, swapped) == digest) == np.array_equal(swapped, values)
        # One row's change can be told from the digest alone.
        old, new = row_digests(keys[:1], values[:1]), row_digests(keys[:1], flipped[:1])
        assert (digest - int(old[0]) + int(new[0])) % 2**64 == digest_rows(
            keys, np.concatenate([flipped[:1], values[1:]])
        )


def test_a_tables_digest_is_that_of_its_exported_rows() -> None:
    table = Table(TableSettings(dim=3), 2)
    table.find_or_insert(np.arange(1, 500, dtype=np.uint64), np.zeros(499, np.uint16), 0, 1)
    table.remove(np.arange(1, 100, dtype=np.uint64), 0, 2)
    export = table.changed_since(0)
    for encoding in Encoding:
        assert digest_rows(export.keys, encoding.encode_rows(export.rows)) == table.digest(encoding)


@given(st.text(), st.lists(st.text(), max_size=20))
def test_keys_are_xxh3_of_field_and_value_however_they_are_asked_for(field: str, values: list[str]) -> None:
    hasher = KeyHasher(field, capacity=4)
    expected = [xxhash.xxh3_64_intdigest(f"{field}\x00{value}".encode("utf-8", "surrogatepass")) for value in values]
    assert hasher.many(values).tolist() == expected
    assert hash_keys(field, values).tolist() == expected
    assert [hash_key(field, value) for value in values] == expected


def test_the_birthday_bound_is_that_of_64_bits() -> None:
    assert collision_bound(1) == 0
    assert collision_bound(10_000_000) == pytest.approx(2.71e-6, rel=0.01)
    assert collision_bound(10**12) == 1.0


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**40 - 1), st.integers(0, 2**24 - 1), st.integers(0, 2**40 - 1))
def test_versions_order_by_epoch_and_then_sequence(epoch: int, sequence: int, other: int, later: int) -> None:
    one, two = pack_version(epoch, sequence), pack_version(other, later)
    assert one == epoch * 2**40 + sequence
    assert (one < two) == ((epoch, sequence) < (other, later))
    assert one < 2**64


def test_versions_outside_their_bits_are_refused() -> None:
    for epoch, sequence in [(-1, 0), (2**24, 0), (0, -1), (0, 2**40)]:
        with pytest.raises(ValueError, match="must be in"):
            pack_version(epoch, sequence)
