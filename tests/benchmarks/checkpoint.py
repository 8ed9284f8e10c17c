"""What a checkpoint costs: whole against an increment after 1% of the rows has changed, and a restart from both.

    python -m tests.benchmarks.checkpoint [--quick] [--json FILE] [--folder FOLDER]

`--folder`: where to write (default: a temporary folder; a memory file system would flatter the whole one).
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.checkpoint.store import CheckpointSettings, CheckpointStore
from online_learning.table.settings import OptimizerKind, OptimizerSettings, TableSettings
from online_learning.table.table import Table
from tests.benchmarks.report import Report, parse

DIM = 32
SEED = 1
SETTINGS = TableSettings(dim=DIM, optimizer=OptimizerSettings(kind=OptimizerKind.ADAGRAD))
REPEATS = 5


def learn(table: Table, keys: np.ndarray, version: int) -> None:
    """Insert and move the rows of these keys."""
    for part in np.array_split(keys, max(1, len(keys) // 100_000)):
        slots = table.find_or_insert(part, np.zeros(len(part), np.uint16), version * 1000, version)
        table.apply_gradients(slots, np.ones((len(part), DIM), np.float32), version)


class Costs:
    """Times in s and bytes of several checkpoints of one kind."""

    def __init__(self) -> None:
        self.copy_s: list[float] = []
        self.save_s: list[float] = []
        self.size_bytes: list[int] = []

    def save(self, table: Table, store: CheckpointStore, *, whole: bool) -> None:
        """Take one snapshot and save it."""
        start = time.perf_counter()
        snapshot = table.snapshot(whole=whole)
        self.copy_s.append(time.perf_counter() - start)
        store.save(Checkpoint(tables={"sparse": snapshot}, dense={}, offsets={"examples": {0: 1}}))
        self.save_s.append(time.perf_counter() - start)
        assert store.newest is not None
        self.size_bytes.append(store.newest.size_bytes)


def main() -> int:
    """Run it; 1 where a bar was missed."""
    options = parse(__doc__ or "", extra={"folder": "where to write"})
    rows = 50_000 if options.quick else 1_000_000
    report = Report(
        "checkpoints",
        options,
        packages=("numpy", "numba"),
        sizes={"rows": rows, "dim": DIM, "optimizer": "adagrad", "changed": rows // 100, "repeats": REPEATS},
        seeds=(SEED,),
    )
    rng = np.random.default_rng(SEED)
    keys = rng.permutation(rows).astype(np.uint64) + np.uint64(1)
    table = Table(SETTINGS, SEED)
    learn(table, keys, 1)
    with tempfile.TemporaryDirectory(dir=options.extra.get("folder"), prefix="checkpoints-") as folder:
        store = CheckpointStore(Path(folder), CheckpointSettings(keep=2, max_increments=1000))
        whole, increment = Costs(), Costs()
        for _ in range(REPEATS):
            whole.save(table, store, whole=True)
        for repeat in range(REPEATS):
            learn(table, rng.choice(keys, rows // 100, replace=False), 2 + repeat)
            increment.save(table, store, whole=False)
        start = time.perf_counter()
        loaded = CheckpointStore(Path(folder)).load_newest()
        load_s = time.perf_counter() - start
        assert loaded is not None
        start = time.perf_counter()
        restored = Table.restore(SETTINGS, loaded.tables["sparse"])
        restore_s = time.perf_counter() - start
        if restored.digest() != table.digest():
            raise SystemExit("the restored table differs from the saved one")

    def share(name: str, of: list[float] | list[int], over: list[float] | list[int], note: str) -> None:
        value = statistics.median(of) / statistics.median(over)
        report.add(name, 100 * value, "%", at_most=5, note=note)

    report.add("whole: copy and save", statistics.median(whole.save_s) * 1e3, "ms")
    report.add("whole: bytes", statistics.median(whole.size_bytes), "bytes")
    report.add("1% changed: copy and save", statistics.median(increment.save_s) * 1e3, "ms")
    report.add("1% changed: of that, the step waits", statistics.median(increment.copy_s) * 1e3, "ms")
    report.add("1% changed: bytes", statistics.median(increment.size_bytes), "bytes")
    share("1% changed over whole: time", increment.save_s, whole.save_s, "median, fsync included")
    share("1% changed over whole: bytes", increment.size_bytes, whole.size_bytes, "")
    report.add("load, base and 5 increments, checksums compared", load_s * 1e3, "ms")
    report.add("restore the table", restore_s * 1e3, "ms")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
