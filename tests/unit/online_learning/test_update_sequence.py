"""Readers of the update log end with the trainer's rows, from any start and over any crashes, or say that they cannot.

The reference is the whole contract in miniature: a trainer that changes keys, publishes, checkpoints, dies at any
moment and starts again from a checkpoint; and readers that start from nothing or from any checkpoint.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from online_learning.updates.frames import Rows, epoch_frame, rows_of, sparse_frames
from online_learning.updates.position import LogPosition, StreamPosition
from online_learning.updates.sequence import FrameOrder, Gap, Verdict
from streams.records import Frame, FrameKind

STREAM = "sparse/0"
State = dict[int, float]


@dataclass
class Saved:
    """A checkpoint: rows, keys not yet published, the position, and the log's length then."""

    rows: State
    touched: set[int]
    at: StreamPosition
    offset: int
    begun_at: int

    @property
    def position(self) -> LogPosition:
        return LogPosition({STREAM: self.at}, {0: self.offset}, {STREAM: self.begun_at})


@dataclass
class Trainer:
    """What the trainer does, with the log as a list."""

    log: list[Frame] = field(default_factory=list)
    saved: list[Saved] = field(default_factory=list)
    rows: State = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    epoch: int = 0
    sequence: int = 0
    begun_at: int = 0

    def change(self, key: int, value: float | None) -> None:
        if value is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = value
        self.touched.add(key)

    def publish(self, max_bytes: int) -> None:
        live = sorted(key for key in self.touched if key in self.rows)
        dead = sorted(key for key in self.touched if key not in self.rows)
        rows = Rows(
            np.array(live, np.uint64),
            np.zeros(len(live), np.uint16),
            np.array([[self.rows[key]] for key in live], np.float32).reshape(len(live), 1),
            np.array(dead, np.uint64),
        )
        frames = list(
            sparse_frames(
                rows, table="sparse", shard=0, epoch=self.epoch, first_sequence=self.sequence + 1, created_at=0,
                learned_before={}, learned={}, max_bytes=max_bytes,
            )
        )  # fmt: skip
        self.log += frames
        self.sequence = frames[-1].sequence
        self.touched.clear()

    def checkpoint(self) -> None:
        at = StreamPosition(self.epoch, self.sequence)
        self.saved.append(Saved(dict(self.rows), set(self.touched), at, len(self.log), self.begun_at))

    def restart(self, which: int) -> None:
        """Starts from a checkpoint (-1: the newest); those behind it were found broken and are thrown away."""
        if self.saved:
            which = which % len(self.saved)
            del self.saved[which + 1 :]
            from_ = self.saved[which]
        else:
            from_ = Saved({}, set(), StreamPosition(), 0, 0)
        self.rows, self.touched = dict(from_.rows), set(from_.touched)
        self.epoch = max([from_.at.epoch, *(frame.epoch for frame in self.log[from_.offset :])]) + 1
        self.sequence = 0
        self.begun_at += 10
        for frame in self.log[from_.offset :]:
            behind = rows_of(frame) if frame.kind is FrameKind.SPARSE else None
            if behind is not None:
                self.touched |= {*behind.keys.tolist(), *behind.tombstones.tolist()}
        self.log.append(
            epoch_frame(
                table="sparse", shard=0, epoch=self.epoch, resumes_epoch=from_.at.epoch, resumes=from_.at.sequence,
                created_at=self.begun_at, learned={},
            )
        )  # fmt: skip
        self.publish(1 << 20)


def follow(frames: list[Frame], start: Saved | None) -> State:
    order = FrameOrder(start.position if start else None)
    rows = dict(start.rows) if start else {}
    for frame in frames:
        if order.judge(frame) is Verdict.APPLY:
            part = rows_of(frame)
            for key in part.tombstones.tolist():
                rows.pop(key, None)
            rows.update(zip(part.keys.tolist(), part.values[:, 0].tolist(), strict=True))
    return rows


changes = st.tuples(st.just("change"), st.integers(1, 6), st.none() | st.integers(0, 100).map(float))
steps = st.one_of(
    changes,
    changes,
    st.tuples(st.just("publish"), st.sampled_from([14, 1000]), st.none()),
    st.tuples(st.just("checkpoint"), st.just(0), st.none()),
    st.tuples(st.just("restart"), st.sampled_from([-1, -1, -1, 0, 1]), st.none()),
)


def play(history: list[tuple[str, int, float | None]], begun_at: int = 0) -> Trainer:
    trainer = Trainer(begun_at=begun_at)
    trainer.restart(-1)
    for what, number, value in history:
        match what:
            case "change":
                trainer.change(number, value)
            case "publish":
                trainer.publish(number)
            case "checkpoint":
                trainer.checkpoint()
            case "restart":
                trainer.restart(number)
    trainer.publish(1000)
    return trainer


@settings(max_examples=400)
@given(st.lists(steps, max_size=40))
def test_a_reader_from_any_start_ends_with_the_trainers_rows(history: list[tuple[str, int, float | None]]) -> None:
    trainer = play(history)
    assert follow(trainer.log, None) == trainer.rows
    for saved in trainer.saved:
        # From the offset that the checkpoint names, and from the log's beginning.
        assert follow(trainer.log[saved.offset :], saved) == trainer.rows
        assert follow(trainer.log, saved) == trainer.rows


@settings(max_examples=400)
@given(st.lists(steps, max_size=30), st.data())
def test_a_missing_frame_is_noticed_or_does_not_matter(
    history: list[tuple[str, int, float | None]], data: st.DataObject
) -> None:
    trainer = play(history)
    lost = data.draw(st.integers(0, len(trainer.log) - 1))
    try:
        rows = follow(trainer.log[:lost] + trainer.log[lost + 1 :], None)
    except Gap:
        return
    # The end of the log cannot show that it is cut short; everything else must.
    assert rows == trainer.rows or lost == len(trainer.log) - 1


@settings(max_examples=200)
@given(st.lists(steps, max_size=30), st.data())
def test_a_frame_delivered_twice_is_applied_once(
    history: list[tuple[str, int, float | None]], data: st.DataObject
) -> None:
    trainer = play(history)
    first = data.draw(st.integers(0, len(trainer.log) - 1))
    again = trainer.log[first : first + data.draw(st.integers(1, 5))]
    end = first + len(again)
    assert follow(trainer.log[:end] + again + trainer.log[end:], None) == trainer.rows


@settings(max_examples=200)
@given(st.lists(steps, max_size=30), st.integers(1, 5), st.integers(0, 40))
def test_frames_of_a_fenced_trainer_change_nothing(
    history: list[tuple[str, int, float | None]], key: int, where: int
) -> None:
    trainer = play(history)
    old = Trainer(epoch=trainer.epoch, sequence=trainer.sequence)
    trainer.restart(-1)
    place = len(trainer.log)
    for value in range(where % 5 + 1):
        trainer.change(value + 1, float(value))
        trainer.publish(1000)
    old.change(key, -1.0)
    old.publish(1000)
    place += where % (len(trainer.log) - place + 1)
    assert follow(trainer.log[:place] + old.log + trainer.log[place:], None) == trainer.rows


@settings(max_examples=200)
@given(st.lists(steps, max_size=30), st.lists(steps, max_size=30))
def test_a_history_that_begins_anew_is_noticed(
    before: list[tuple[str, int, float | None]], after: list[tuple[str, int, float | None]]
) -> None:
    """The trainer's state and the log are both gone: the new trainer begins at epochs that were there already."""
    old = play(before)
    new = play(after, old.begun_at)
    with pytest.raises(Gap, match="begins anew"):
        follow(old.log + new.log, None)
    for saved in old.saved:
        with pytest.raises(Gap, match="begins anew"):
            follow(new.log, saved)


def test_a_checkpoint_that_does_not_say_when_its_epoch_began_is_taken() -> None:
    order = FrameOrder(LogPosition({STREAM: StreamPosition(2, 4)}))
    again = epoch_frame(table="sparse", shard=0, epoch=2, resumes_epoch=1, resumes=5, created_at=9, learned={})
    assert order.judge(again) is Verdict.SKIP


def test_a_state_that_is_behind_a_takeover_is_refused() -> None:
    order = FrameOrder(LogPosition({STREAM: StreamPosition(1, 4)}))
    taking = epoch_frame(table="sparse", shard=0, epoch=2, resumes_epoch=1, resumes=5, created_at=0, learned={})
    with pytest.raises(Gap, match="resumes after"):
        order.judge(taking)


def test_a_state_built_on_a_checkpoint_that_was_thrown_away_is_refused() -> None:
    order = FrameOrder(LogPosition({STREAM: StreamPosition(1, 9)}))
    taking = epoch_frame(table="sparse", shard=0, epoch=2, resumes_epoch=1, resumes=5, created_at=0, learned={})
    with pytest.raises(Gap, match="was built on"):
        order.judge(taking)


def test_streams_are_judged_apart() -> None:
    order = FrameOrder()
    for table in ("sparse", "dense"):
        taking = epoch_frame(table=table, shard=0, epoch=1, resumes_epoch=0, resumes=0, created_at=0, learned={})
        assert order.judge(taking) is Verdict.EPOCH
    assert dict(order.streams) == {"sparse/0": StreamPosition(1, 0), "dense/0": StreamPosition(1, 0)}
