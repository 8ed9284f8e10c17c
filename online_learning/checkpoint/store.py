"""Checkpoints by number: saved in one step, found again by checksum, kept while something builds on them.

A save is these steps, in this order; a process that dies between any two leaves the newest checkpoint intact:
  1. write the array files into a hidden folder, fsync each
  2. write the manifest and its checksum, fsync both
  3. fsync the hidden folder
  4. rename it to its number
  5. fsync the parent: from here on the checkpoint counts
  6. remove checkpoints that are neither among the newest, nor built upon, nor the whole one before those
In a store without renames steps 2 to 5 are one: the manifest is written, one object that names the parts.
"""

import contextlib
import logging
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.checkpoint.checkpoint import ANEW, FORMAT, Checkpoint, CheckpointError, FileEntry, Manifest
from online_learning.checkpoint.files import arrays_in
from online_learning.checkpoint.storage import Draft, storage_at
from online_learning.table.snapshot import TableSnapshot, merge
from streams.failpoints import hit

logger = logging.getLogger(__name__)

DENSE_FILE = "dense.arrays"


class CheckpointSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`keep`: newest checkpoints kept, with all they build on. Where that is one whole checkpoint (the base) for all of
    them, the base before it is kept too: one that is spoilt on the disk does not take everything with it.
    `max_increments`: after so many, or once they outweigh their base, an increment is saved merged with all it builds
    on, which bounds the time of a restart, and what lies there to some four times a base."""

    keep: int = 3
    max_increments: int = 20

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"`keep` == {self.keep}, must be >= 1")
        if self.max_increments < 0:
            raise ValueError(f"`max_increments` == {self.max_increments}, must be >= 0")


class _Format(msgspec.Struct):
    format: int


class Broken(msgspec.Struct, frozen=True):
    """A checkpoint that was passed over, and why."""

    number: int
    reason: str


class CheckpointStore:
    """Checkpoints at `location`, a path or URL (made if absent). One writer; any number of readers.

    `number`: of the checkpoint that was saved or loaded last, whatever is being saved now; 0 before any. `broken`:
    those that the last load passed over.
    """

    def __init__(self, location: str | Path, settings: CheckpointSettings | None = None) -> None:
        self.storage = storage_at(location)
        self.settings = settings or CheckpointSettings()
        self.broken: list[Broken] = []
        self.number = 0
        self._tip: Manifest | None = None
        self._chain_bytes: list[int] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.storage.create()

    def wants_whole(self) -> bool:
        """Whether the next checkpoint must be whole, since there is nothing that an increment could build on.

        That is so at the first one and after a save that failed. Long chains need no whole snapshot from the
        trainer: the store merges them from its own files, beside the steps.
        """
        self._join()
        return self._tip is None

    def numbers(self) -> list[int]:
        """Numbers of all checkpoints there, ascending, broken ones too."""
        return self.storage.numbers()

    # ---- saving

    def save(self, checkpoint: Checkpoint) -> int:
        """Save and return its number, once it is durable. Raises CheckpointError; older ones stay intact.

        An increment must build on the checkpoint saved or loaded last. After an error the next must be whole.
        """
        self.wait()
        return self._save(checkpoint)

    def save_in_background(self, checkpoint: Checkpoint) -> None:
        """Save by a thread (after any save still running); its error is raised by the next call of this store.

        The checkpoint's arrays must not be changed from here on: snapshots are copies, dense arrays must be too.
        """
        self.wait()

        def work() -> None:
            try:
                self._save(checkpoint)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name="checkpoint", daemon=False)
        self._thread.start()

    @property
    def saving(self) -> bool:
        """Whether a background save still runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> None:
        """Until no save runs; raises the CheckpointError of a background save that failed."""
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    @property
    def newest(self) -> Manifest | None:
        """The manifest of what the next increment would build on; None while a save runs and after one that failed."""
        return self._tip

    def _save(self, checkpoint: Checkpoint) -> int:
        tip, whole = self._tip, checkpoint.whole
        if not whole:
            self._check_builds_on(tip, checkpoint)
            if self._chain_is_long():
                self._tip = None
                checkpoint, whole = self._merged_with_chain(tip, checkpoint), True
        # Until this one is durable the table's changes since the tip are in no other place.
        self._tip = None
        draft: Draft | None = None
        try:
            self._check_newest_epoch(checkpoint)
            number = max([*self.numbers(), 0]) + 1
            draft = self.storage.draft(number)
            hit("trainer.checkpoint-folder-made")
            manifest = self._write(draft, checkpoint, number, None if whole or tip is None else tip.number)
            draft.commit(msgspec.json.encode(manifest))
            hit("trainer.checkpoint-saved")
        except OSError as error:
            if draft is not None:
                draft.discard()
            raise CheckpointError(f"no checkpoint was saved to {self.storage.location}: {error}") from error
        self._tip, self.number = manifest, number
        self._chain_bytes = [manifest.size_bytes] if whole else [*self._chain_bytes, manifest.size_bytes]
        self._prune()
        hit("trainer.checkpoint-pruned")
        return number

    def _check_newest_epoch(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError where a trainer of a newer epoch has saved here: this one's history is dead by now
        and must not become the newest again."""
        for number in reversed(self.numbers()):
            try:
                newest = self._manifest(number)
            except (CheckpointError, OSError):
                continue
            if newest.epoch > checkpoint.epoch:
                raise CheckpointError(
                    f"no checkpoint was saved to {self.storage.location}: checkpoint {number} is of epoch "
                    f"{newest.epoch}, this trainer's epoch is {checkpoint.epoch}: another one has taken over"
                )
            return

    def _chain_is_long(self) -> bool:
        base, increments = self._chain_bytes[0], self._chain_bytes[1:]
        return len(increments) >= self.settings.max_increments or sum(increments) > base

    def _merged_with_chain(self, tip: Manifest | None, increment: Checkpoint) -> Checkpoint:
        """The whole checkpoint that an increment stands for. Raises CheckpointError where its chain is broken."""
        broken: dict[int, str] = {}
        chain = [] if tip is None else self._chain(tip.number, broken)
        loaded, used = self._read_prefix(chain or [], broken)
        if loaded is None or broken or used[-1] != tip:
            self._report(broken)
            raise CheckpointError(f"what the increment builds on is broken: {broken}")
        return _merged(loaded, increment)

    def _write(self, draft: Draft, checkpoint: Checkpoint, number: int, parent: int | None) -> Manifest:
        tables = {}
        for index, (name, snapshot) in enumerate(sorted(checkpoint.tables.items())):
            # Table names are free text: files are numbered.
            tables[name] = draft.write(f"table-{index}.arrays", snapshot.arrays)
            hit("trainer.checkpoint-table-written")
        dense = draft.write(DENSE_FILE, checkpoint.dense)
        hit("trainer.checkpoint-dense-written")
        return Manifest(
            format=FORMAT,
            number=number,
            parent=parent,
            epoch=checkpoint.epoch,
            sequence=checkpoint.sequence,
            offsets=checkpoint.offsets,
            meta=checkpoint.meta,
            dense=dense,
            tables=tables,
            snapshots={name: snapshot.meta for name, snapshot in checkpoint.tables.items()},
            folder=draft.folder,
        )

    def _check_builds_on(self, tip: Manifest | None, checkpoint: Checkpoint) -> None:
        if tip is None:
            raise CheckpointError("an increment has nothing to build on: the next checkpoint must be whole")
        for name, snapshot in checkpoint.tables.items():
            before = tip.snapshots.get(name)
            if before is None or snapshot.meta.parent != before.generation:
                raise CheckpointError(f"the increment of table {name!r} does not build on checkpoint {tip.number}")
        if set(tip.snapshots) != set(checkpoint.tables):
            raise CheckpointError(f"the increment's tables are not those of checkpoint {tip.number}")

    def _prune(self) -> None:
        try:
            there = self.numbers()
            needed = _needed(self._parents(there), self.settings.keep)
        except OSError as error:
            # What cannot be read now may be there all the same: nothing is removed before that is known.
            logger.warning("older checkpoints in %s were not removed: %s", self.storage.location, error)
            return
        for number in there:
            if number not in needed:
                self.storage.remove(number)
        self.broken = [entry for entry in self.broken if entry.number in needed]

    def _parents(self, numbers: Iterable[int]) -> dict[int, int | None]:
        """What each of these checkpoints builds on, but for those that are broken. Raises OSError."""
        broken = {entry.number for entry in self.broken}
        parents = {}
        for number in numbers:
            if number not in broken:
                with contextlib.suppress(CheckpointError, FileNotFoundError, NotADirectoryError):
                    parents[number] = self._manifest(number).parent
        return parents

    # ---- loading

    def oldest(self) -> Manifest | None:
        """The oldest checkpoint that could still be loaded: a fallback, or what increments build on."""
        for number in self.numbers():
            try:
                return self._manifest(number)
            except (OSError, CheckpointError):
                continue
        return None

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact with all it builds on, whole; None where there is none at all.

        Those passed over are in `broken` with the reason, and logged. Raises CheckpointError where checkpoints
        are there but none is intact: starting from nothing must be somebody's decision.
        """
        self.wait()
        while True:
            broken: dict[int, str] = {}
            numbers = self.numbers()
            loaded = None
            for number in reversed(numbers):
                if loaded is None and number not in broken:
                    loaded = self._load_chain(number, broken)
            # A reader beside the writer may have met checkpoints just as they were pruned: there are newer ones then.
            if not broken or self.numbers() == numbers:
                break
        self._report(broken)
        if numbers and loaded is None:
            raise CheckpointError(
                f"none of {len(numbers)} checkpoints in {self.storage.location} is intact: {broken}: put copies back, "
                f"or {ANEW}"
            )
        return loaded

    def _report(self, broken: dict[int, str]) -> None:
        self.broken = [Broken(number, reason) for number, reason in sorted(broken.items())]
        for entry in self.broken:
            logger.warning("checkpoint %d in %s passed over: %s", entry.number, self.storage.location, entry.reason)

    def _load_chain(self, number: int, broken: dict[int, str]) -> Checkpoint | None:
        """The longest intact prefix of the chain that ends in `number`; what is behind it is noted as broken."""
        chain = self._chain(number, broken)
        if chain is None:
            return None
        loaded, used = self._read_prefix(chain, broken)
        if loaded is not None:
            self._tip, self._chain_bytes = used[-1], [manifest.size_bytes for manifest in used]
            self.number = used[-1].number
        return loaded

    def _chain(self, number: int, broken: dict[int, str]) -> list[Manifest] | None:
        """Manifests from the base to `number`; None (and noted as broken) where one cannot be read."""
        chain: list[Manifest] = []
        step: int | None = number
        while step is not None:
            reason = broken.get(step)
            if reason is None:
                try:
                    manifest = self._manifest(step)
                except (CheckpointError, OSError) as error:
                    reason = broken[step] = str(error)
            if reason is not None:
                for orphan in chain:
                    broken[orphan.number] = f"builds on checkpoint {step}, which is broken"
                return None
            chain.append(manifest)
            step = manifest.parent
        return chain[::-1]

    def _read_prefix(self, chain: list[Manifest], broken: dict[int, str]) -> tuple[Checkpoint | None, list[Manifest]]:
        """(the state after the intact first links of a chain, those links)."""
        base: Checkpoint | None = None
        tail: Checkpoint | None = None
        used = chain
        for place, manifest in enumerate(chain):
            try:
                step = self._read(manifest)
                if base is None:
                    base = step
                else:
                    # Increments are merged among themselves first: the base is gone through once.
                    tail = step if tail is None else _merged(tail, step)
            except (CheckpointError, OSError, ValueError, KeyError) as error:
                broken[manifest.number] = str(error)
                for later in chain[place + 1 :]:
                    broken[later.number] = f"builds on checkpoint {manifest.number}, which is broken"
                used = chain[:place]
                break
        return base if base is None or tail is None else _merged(base, tail), used

    def _manifest(self, number: int) -> Manifest:
        raw = self.storage.manifest(number)
        try:
            # First by itself: another format may have other fields.
            written = msgspec.json.decode(raw, type=_Format).format
            if written != FORMAT:
                raise CheckpointError(f"format {written} is not {FORMAT}, which this release reads")
            return msgspec.json.decode(raw, type=Manifest)
        except msgspec.DecodeError as error:
            raise CheckpointError(f"the manifest cannot be read: {error}") from error

    def _read(self, manifest: Manifest) -> Checkpoint:
        def arrays(entry: FileEntry) -> dict[str, NDArray[np.generic]]:
            return arrays_in(self.storage.read(manifest.number, manifest.folder, entry.name), entry)

        tables = {
            name: TableSnapshot(meta=manifest.snapshots[name], arrays=arrays(entry))
            for name, entry in manifest.tables.items()
        }
        return Checkpoint(
            tables=tables,
            dense=arrays(manifest.dense),
            offsets=manifest.offsets,
            epoch=manifest.epoch,
            sequence=manifest.sequence,
            meta=manifest.meta,
            number=manifest.number,
        )


def _needed(parents: Mapping[int, int | None], keep: int) -> set[int]:
    """Which checkpoints are kept; `parents` in ascending order."""
    needed: set[int] = set()
    for number in list(parents)[-keep:]:
        step: int | None = number
        while step is not None and step not in needed:
            needed.add(step)
            step = parents.get(step)
    bases = [number for number, parent in parents.items() if parent is None]
    # The newest of those that are needed, and the one before it.
    return needed.union(bases[-2:])


def _merged(earlier: Checkpoint, later: Checkpoint) -> Checkpoint:
    """The later checkpoint, with what it builds on merged in."""
    tables = {name: merge(earlier.tables[name], snapshot) for name, snapshot in later.tables.items()}
    return msgspec.structs.replace(later, tables=tables)
