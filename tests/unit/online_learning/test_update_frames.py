"""Frames carry rows, tombstones and dense parameters without loss, in pieces of bounded size."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from online_learning.updates.frames import BadFrame, Rows, dense_frame, epoch_frame, rows_of, sparse_frames, tensors_of
from streams.records import Frame, FrameKind
from streams.topics import UPDATES


def rows(n: int, m: int, dim: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    keys = rng.choice(1 << 40, n + m, replace=False).astype(np.uint64)
    spaces = rng.integers(0, 1 << 16, n).astype(np.uint16)
    return Rows(keys[:n], spaces, rng.normal(size=(n, dim)).astype(np.float32), keys[n:])


def cut(
    whole: Rows, max_bytes: int = 1 << 20, encoding: str = "f32", learned: dict[int, int] | None = None
) -> list[Frame]:
    return list(
        sparse_frames(
            whole,
            table="sparse",
            shard=0,
            epoch=3,
            first_sequence=7,
            created_at=1,
            encoding="f16" if encoding == "f16" else "f32",
            learned_before={0: 1},
            learned={0: 9} if learned is None else learned,
            max_bytes=max_bytes,
        )
    )


def wire(frame: Frame) -> Frame:
    decoded: Frame = UPDATES.codec.decode(UPDATES.codec.encode(frame))
    return decoded


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.integers(1, 400))
def test_rows_come_back_as_they_went_in_whatever_the_frame_size(n: int, m: int, dim: int, max_bytes: int) -> None:
    whole = rows(n, m, dim)
    parts = [rows_of(wire(frame)) for frame in cut(whole, max_bytes)]
    assert np.array_equal(np.concatenate([part.keys for part in parts]), whole.keys)
    assert np.array_equal(np.concatenate([part.spaces for part in parts]), whole.spaces)
    assert np.array_equal(np.concatenate([part.values for part in parts]), whole.values)
    assert np.array_equal(np.concatenate([part.tombstones for part in parts]), whole.tombstones)


def test_sequences_are_dense_and_only_the_last_frame_says_learned() -> None:
    frames = cut(rows(100, 3, 4), max_bytes=500)
    assert len(frames) > 2
    assert [frame.sequence for frame in frames] == list(range(7, 7 + len(frames)))
    assert [frame.learned for frame in frames] == [{0: 1}] * (len(frames) - 1) + [{0: 9}]


def test_a_frame_stays_near_its_size() -> None:
    for frame in cut(rows(3000, 3000, 17), max_bytes=20_000):
        assert len(UPDATES.codec.encode(frame)) < 41_000


def test_nothing_changed_is_still_a_frame_that_says_what_was_learned() -> None:
    (frame,) = cut(rows(0, 0, 4))
    assert frame.learned == {0: 9}
    assert rows_of(frame).values.shape == (0, 4)


def values_in_f16_range() -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-60_000, 60_000, width=32), min_size=1, max_size=20)


@given(values_in_f16_range())
def test_fp16_rounds_to_the_nearest_half(values: list[float]) -> None:
    array: NDArray[np.float32] = np.array([values], np.float32)
    whole = Rows(np.array([5], np.uint64), np.array([1], np.uint16), array, np.empty(0, np.uint64))
    (frame,) = cut(whole, encoding="f16")
    assert len(frame.rows) == 2 * len(values)
    assert np.array_equal(rows_of(wire(frame)).values, array.astype(np.float16).astype(np.float32))


def test_fp16_clips_instead_of_becoming_infinite() -> None:
    array = np.array([[1e9, -1e9]], np.float32)
    whole = Rows(np.array([5], np.uint64), np.array([1], np.uint16), array, np.empty(0, np.uint64))
    (frame,) = cut(whole, encoding="f16")
    assert rows_of(frame).values.tolist() == [[65504.0, -65504.0]]


def test_a_frame_whose_parts_do_not_fit_is_named() -> None:
    (frame,) = cut(rows(3, 0, 4))
    broken = msgspec.structs.replace(frame, rows=frame.rows[:-4])
    with pytest.raises(BadFrame, match="epoch 3 sequence 7: 3 keys, 3 spaces, 11 values of dim 4"):
        rows_of(broken)
    with pytest.raises(BadFrame, match="'i8'"):
        rows_of(msgspec.structs.replace(frame, encoding="i8"))
    with pytest.raises(BadFrame, match="0 values of dim -1"):
        rows_of(Frame(v=1, kind=FrameKind.SPARSE, table="sparse", shard=0, epoch=1, sequence=1, created_at=0, dim=-1))


@pytest.mark.parametrize("part", ["keys", "spaces", "rows", "tombstones"])
def test_a_frame_whose_part_ends_in_the_middle_of_a_value_is_named(part: str) -> None:
    (frame,) = cut(rows(3, 2, 4))
    short = getattr(frame, part)[:-1]
    with pytest.raises(BadFrame, match=f"epoch 3 sequence 7: {len(short)} bytes of `{part}`"):
        rows_of(msgspec.structs.replace(frame, **{part: short}))


def test_dense_parameters_keep_their_shapes_and_types() -> None:
    parameters: dict[str, NDArray[Any]] = {
        "scalar": np.array(2.5, np.float32),
        "matrix": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "big_endian": np.arange(3, dtype=">i4"),
        "empty": np.empty((0, 4), np.float32),
    }
    frame = dense_frame(
        parameters, table="dense", shard=0, epoch=1, sequence=2, created_at=0, trained_with={"sparse": 5}, learned={}
    )
    back = tensors_of(wire(frame))
    assert frame.trained_with == {"sparse": 5}
    for name, array in parameters.items():
        assert back[name].shape == array.shape
        assert np.array_equal(back[name], array)


def test_an_epoch_frame_says_where_it_resumes() -> None:
    frame = wire(
        epoch_frame(table="sparse", shard=0, epoch=4, resumes_epoch=2, resumes=9, created_at=0, learned={0: 3})
    )
    assert (frame.kind, frame.epoch, frame.sequence) == (FrameKind.EPOCH, 4, 0)
    assert (frame.resumes_epoch, frame.resumes, frame.learned) == (2, 9, {0: 3})
