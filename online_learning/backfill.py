"""Training on a stored log, as fast as it goes, into a checkpoint that the live trainer goes on from.

First the files, if any, in their order; then the topic `examples`, from where the files end (or its beginning) to the
end that it had when the backfill got there. The checkpoint's offsets are where it stopped, so the live trainer begins
with the very next example. Nothing is published: of this history the update log learns by the live trainer's epoch.

Like the live trainer it lets rows go, but by the time of the events, and keeps itself every `checkpoint_interval_s`: a
killed backfill, started again, goes on from its newest checkpoint, and learns each example once as rows and offsets
count them.

How well the history was predicted is kept as sums since its start, of which the live trainer's health speaks; so are
the alarms that still stand at its end. Windows of progressive validation and alarms that began are dropped: their
readers would take them for the live trainer's, whose windows begin with number 0.
"""

import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from online_learning.catalogue import Catalogue
from online_learning.checkpoint.checkpoint import CheckpointError
from online_learning.feed import Feed
from online_learning.inputs import Positions
from online_learning.keeper import Keeper
from online_learning.learners import Learners
from online_learning.settings import LearningSettings
from online_learning.state import Backfilled
from online_learning.stored_examples import Place, stored_examples
from online_learning.sweep import Sweep
from online_learning.table.table import Table
from online_learning.table.version import pack_version
from online_learning.updates.position import LogPosition
from streams.records import Example
from streams.topics import EXAMPLES

# Rows carry an epoch below every one that the update log knows.
_VERSION: Final = pack_version(0, 1)
_ANY_VERSION: Final = (1 << 64) - 1
_TELL_EVERY_S: Final = 0.5
# How far the files are, beside the offsets of the topics.
_FILES: Final = "files"


class BackfillError(RuntimeError):
    """The backfill would miss an example, learn one twice, or overwrite a trainer's state; the message says which."""


class BackfillReport(msgspec.Struct, frozen=True):
    """`from_files`, `from_topic`: examples read, resumed runs included; `offsets`: where the live trainer goes on;
    `examples`, `seconds`: of this run alone."""

    done: bool
    from_files: int
    from_topic: int
    learned: int
    rows: int
    offsets: dict[int, int]
    checkpoint: int
    examples: int
    seconds: float


class _Unpublished:
    """Stands where a publisher would: what changes is acknowledged at once, since nobody is to hear of it."""

    epoch = 0
    position = LogPosition()

    def __init__(self, table: Table) -> None:
        self._table = table

    def poll(self) -> None:
        self._table.confirm(self._table.take_touched(), _ANY_VERSION)


class Backfill:
    """One run of a backfill of `files` into `settings.trainer.checkpoint_dir`; `run` it once.

    Raises BackfillError, CheckpointError, BadExamples, BrokerAway, Stopped.
    """

    def __init__(self, settings: LearningSettings, files: Sequence[Path], stop: threading.Event) -> None:
        self._settings, self._files, self._stop = settings, list(files), stop
        catalogue = Catalogue()
        self._learners = Learners(settings, catalogue)
        self._keeper = Keeper(settings, settings.trainer.checkpoint_dir)
        kept = self._keeper.restore(self._learners, resume_backfill=True)
        self._state = self._resumed(kept.backfill)
        self._feed = Feed(settings, self._learners, catalogue, kept.offsets, None, stop)
        self._publisher = _Unpublished(self._learners.online.table)
        self._before = sum(self._learners.counters.examples.values()) + self._state.rows
        self._keep_due_s = time.monotonic() + settings.trainer.checkpoint_interval_s
        self._sweep = Sweep(settings.rows, self._learners)

    def run(self, tell: Callable[[BackfillReport], None] = lambda report: None) -> BackfillReport:
        """Learns until the end, or until `stop` is set; either way all that was learned is kept. `tell` hears of it
        twice a second."""
        started_s = told_s = time.monotonic()
        try:
            for examples in self._batches():
                self._learn(examples)
                # By the events' clock: a history of months takes minutes.
                self._sweep.run(self._learners.clock_ms / 1e3, _VERSION)
                now_s = time.monotonic()
                if now_s >= self._keep_due_s:
                    self._keep_due_s = now_s + self._settings.trainer.checkpoint_interval_s
                    self._keep()
                if now_s >= told_s + _TELL_EVERY_S:
                    told_s = now_s
                    tell(self._report(now_s - started_s))
            if not self._stop.is_set():
                self._state = msgspec.structs.replace(self._state, done=True)
            number = self._keeper.number
            self._keep(wait=True)
            if self._keeper.number == number:
                raise CheckpointError("the backfill could not be saved: the log says why")
            return self._report(time.monotonic() - started_s)
        finally:
            self._feed.close()
            self._keeper.close()

    def _resumed(self, before: Backfilled | None) -> Backfilled:
        files = [(path.name, path.stat().st_size) for path in self._files]
        if before is None:
            if self._keeper.number:
                raise BackfillError(
                    f"{self._settings.trainer.checkpoint_dir} holds a trainer's checkpoints: a backfill needs an empty "
                    "place"
                )
            return Backfilled(files)
        if before.done:
            raise BackfillError(f"{self._settings.trainer.checkpoint_dir} holds a backfill that is done")
        if before.files != files:
            raise BackfillError(f"the backfill that was begun here has the files {before.files}, not {files}")
        return before

    # --- reading ---------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[list[Example]]:
        """Batches to learn; when one is handed out, `self._state` and the feed's positions are behind it."""
        reached: dict[int, int] = {}
        ids = array("Q")
        for batch in self._file_batches(reached, ids):
            yield self._feed.living(batch)
        if self._stop.is_set():
            return
        if not self._state.ends:
            self._cut_over(reached, whole=not ids)
        known = np.sort(np.frombuffer(ids, np.uint64)) if ids else np.empty(0, np.uint64)
        ends: Positions = {EXAMPLES.name: self._state.ends}
        while not self._feed.examples.reached(ends) and not self._stop.is_set():
            examples = self._feed.next(100.0)
            if examples is not None:
                _check_unknown(examples, known)
                yield examples

    def _file_batches(self, reached: dict[int, int], ids: "array[int]") -> Iterator[list[Example]]:
        """Batches of the files' rows that are not learned yet. `reached` becomes the next offset per partition of rows
        that say where they stood on the topic, `ids` the hashes of the others' ids."""
        batch: list[Example] = []
        number = 0
        for path in self._files:
            for example, place in stored_examples(path):
                if self._stop.is_set():
                    return
                number += 1
                if place is None:
                    ids.append(_hash(example))
                elif not _follows(place, reached, path):
                    continue
                if number <= self._state.rows:
                    continue
                batch.append(example)
                if len(batch) == self._settings.trainer.max_batch:
                    self._state = msgspec.structs.replace(self._state, rows=number)
                    yield batch
                    batch = []
        self._state = msgspec.structs.replace(self._state, rows=number)
        if batch:
            yield batch

    def _cut_over(self, reached: Mapping[int, int], *, whole: bool) -> None:
        """Goes to where the files end on the topic, and fixes where the backfill ends.

        `whole`: all rows say where they stood, so the files must reach every partition's beginning. Raises
        BackfillError where examples would be missed.
        """
        begins, ends = (found[EXAMPLES.name] for found in (self._feed.examples.begins(), self._feed.examples.ends()))
        wanted = {partition: reached.get(partition, 0) for partition in begins} if self._files and whole else reached
        for partition, offset in wanted.items():
            if partition not in begins or offset > ends[partition]:
                raise BackfillError(
                    f"the files go to offset {offset} of partition {partition}, the topic does not: they are of another"
                )
            if offset < begins[partition]:
                raise BackfillError(
                    f"of partition {partition} the files end at offset {offset}, the topic begins at "
                    f"{begins[partition]}: what lies between would be missed"
                )
        self._feed.examples.seek(wanted)
        self._state = msgspec.structs.replace(self._state, ends=ends)

    # --- learning and keeping --------------------------------------------------------------------------------------

    def _learn(self, examples: list[Example]) -> None:
        # Of a history, now is its newest event.
        now_ms = max([self._learners.clock_ms, *(example.ts for example in examples)])
        self._learners.learn(examples, now_ms, _VERSION)
        self._learners.learn_rest(_VERSION)
        self._learners.progressive.drop_closed()
        self._learners.drift.take_begun()

    def _keep(self, *, wait: bool = False) -> None:
        for user in self._feed.follow_catalogue():
            self._learners.forget_user(user, _VERSION)
        self._publisher.poll()
        self._keeper.save(self._learners, self._publisher, self._positions(), wait=wait, backfill=self._state)
        # Nobody is to hear of what went: once a snapshot holds that, it need not be known any more.
        self._learners.online.table.forget_tombstones(_VERSION + 1)

    def _positions(self) -> Positions:
        # Before the cut-over, the live trainer's place on the topic is not known yet.
        return {_FILES: {0: self._state.rows}} | (self._feed.positions if self._state.ends else {})

    def _report(self, seconds: float) -> BackfillReport:
        counters = self._learners.counters
        from_topic = sum(counters.examples.values())
        return BackfillReport(
            done=self._state.done,
            from_files=self._state.rows,
            from_topic=from_topic,
            learned=counters.learned,
            rows=len(self._learners.online.table),
            offsets=dict(self._feed.learned),
            checkpoint=self._keeper.number,
            examples=self._state.rows + from_topic - self._before,
            seconds=seconds,
        )


def _hash(example: Example) -> int:
    return xxhash.xxh3_64_intdigest(example.example_id.encode("utf-8", "surrogatepass"))


def _follows(place: Place, reached: dict[int, int], path: Path) -> bool:
    """Whether an example is the next of its partition; not so where the row before was the same one.

    Raises BackfillError where it stood before others that are learned already.
    """
    following = reached.get(place.partition, 0)
    if place.offset == following - 1:
        return False
    if place.offset < following:
        raise BackfillError(
            f"{path}: offset {place.offset} of partition {place.partition} comes after {following - 1}: give the rows "
            "and files in the order of their offsets"
        )
    reached[place.partition] = place.offset + 1
    return True


def _check_unknown(examples: Sequence[Example], known: NDArray[np.uint64]) -> None:
    """Raises BackfillError where an example of the topic was in the files, too, without its place there."""
    if not len(known):
        return
    ids = np.array([_hash(example) for example in examples], np.uint64)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    twice = np.flatnonzero(known[places] == ids)
    if len(twice):
        raise BackfillError(
            f"example {examples[twice[0]].example_id!r} is in the files and on the topic: give files that name the "
            "`partition` and `offset` of each example"
        )


def run(
    settings: LearningSettings,
    files: Sequence[Path],
    stop: threading.Event,
    tell: Callable[[BackfillReport], None] = lambda report: None,
) -> BackfillReport:
    """Backfills into `settings.trainer.checkpoint_dir`; see Backfill."""
    torch.set_num_threads(1)
    return Backfill(settings, files, stop).run(tell)
