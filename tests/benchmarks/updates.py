"""From a learned row to one that serving can read, on a Kafka and a replica process of the benchmark's own.

    python -m tests.benchmarks.updates [--quick] [--json FILE]

Measured: latency of small frames beside a plain produce and consume of the same bytes; rows per second of a large
change; the time of a takeover; lookups in shared memory beside numpy on rows whose place is known.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from kafka import TopicPartition

from online_learning.settings import LearningSettings, ModelSettings
from online_learning.table.settings import TableSettings
from online_learning.table.table import Table
from online_learning.updates.position import LogPosition
from online_learning.updates.publisher import Publisher
from serving.settings import ServingSettings
from serving.shared.head import HeadWriter
from serving.shared.mirror import Mirror
from serving.shared.vectors import VectorsWriter, map_vectors
from streams import kafka
from streams.settings import KafkaSettings
from streams.topics import METRICS
from tests.benchmarks.report import Report, parse, seconds
from tests.faults.test_replica import REPLICA
from tests.stacks import running_stack, wait_until

DIM = 17
ROWS_PER_FRAME = 500
SEED = 0


@contextmanager
def replica(settings: ServingSettings, folder: Path) -> Iterator[Mirror]:
    """A replica process and a mirror of what it writes."""
    (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
    argv = [sys.executable, "-c", REPLICA, str(folder / "settings.json"), str(folder / "health.json")]
    process = subprocess.Popen(argv, env={**os.environ, "OMP_NUM_THREADS": "1"})
    mirror = Mirror(Path(settings.shm_dir))
    try:
        wait_until((folder / "health.json").exists, 60, "the replica is ready")
        mirror.refresh()
        yield mirror
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(settings.shm_dir, ignore_errors=True)


def learn(table: Table, publisher: Publisher, keys: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> None:
    """One step on these keys."""
    slots = table.find_or_insert(keys, np.ones(len(keys), np.uint16), 0, publisher.version)
    table.apply_gradients(slots, np.full((len(keys), DIM), 0.01, np.float32), publisher.version)


def until(condition: Callable[[], bool]) -> None:
    """Looks again every 0.2 ms."""
    deadline_s = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the replica did not follow within 60 s")
        time.sleep(0.0002)


def latency(report: Report, table: Table, publisher: Publisher, mirror: Mirror, settings: KafkaSettings) -> None:
    """Small frames, one every 50 ms, as the trainer sends them."""
    frames = 40 if report.options.quick else 600
    rng = np.random.default_rng(SEED)
    took_ms, plain_ms = [], []
    reader = kafka.consumer(settings, client_id="benchmark")
    place = TopicPartition(METRICS.name, 0)
    reader.assign([place])
    reader.seek(place, reader.end_offsets([place])[place])
    with kafka.producer(settings, client_id="benchmark", linger_ms=0) as sender:
        for n in range(1, frames + 1):
            learn(table, publisher, rng.integers(1, 100_000, ROWS_PER_FRAME).astype(np.uint64))
            begun_s = time.perf_counter()
            publisher.publish_sparse(table, {0: n})
            until(lambda n=n: mirror.lineage().learned.get(0, 0) >= n)  # type: ignore[misc]
            took_ms.append((time.perf_counter() - begun_s) * 1e3)
            begun_s = time.perf_counter()
            sender.send_bytes(METRICS.name, bytes(ROWS_PER_FRAME * (10 + 4 * DIM)), partition=0)
            while not reader.poll(timeout_ms=1000):
                pass
            plain_ms.append((time.perf_counter() - begun_s) * 1e3)
            time.sleep(max(0.0, 0.05 - (time.perf_counter() - begun_s)))
            publisher.poll()
    reader.close()
    for q in (50, 99):
        note = f"plain produce and consume of as many bytes: {np.percentile(plain_ms, q):.1f} ms"
        report.add(f"learned to readable, p{q}", float(np.percentile(took_ms, q)), "ms", note=note)


def bulk(report: Report, table: Table, publisher: Publisher, mirror: Mirror, rows: int) -> None:
    """All rows changed at once, until the replica equals the table."""
    learn(table, publisher, np.arange(1, rows + 1, dtype=np.uint64))
    begun_s = time.perf_counter()
    while table.touched:
        publisher.publish_sparse(table, {0: 1_000_000})
        publisher.flush(60.0)
    until(lambda: mirror.lineage().learned.get(0, 0) == 1_000_000)
    took_s = time.perf_counter() - begun_s
    report.add("rows published and applied", rows / took_s, "rows/s")
    mirror.refresh()
    report.add("digests equal", float(mirror.table.digest() == table.digest()), "", equals=1.0)


def takeover(report: Report, table: Table, publisher: Publisher, mirror: Mirror, settings: KafkaSettings) -> None:
    """A new trainer repairs 100,000 rows that its checkpoint does not know."""
    position = publisher.position
    learn(table, publisher, np.arange(1, 100_001, dtype=np.uint64))
    publisher.publish_sparse(table, {0: 1_000_001})
    publisher.flush(60.0)
    publisher.close()
    successor = Publisher(settings)
    begun_s = time.perf_counter()
    epoch = successor.begin_epoch(position, table, {0: 1_000_002})
    until(lambda: mirror.lineage().epoch == epoch and mirror.lineage().learned.get(0) == 1_000_002)
    report.add("takeover, fenced to repaired", time.perf_counter() - begun_s, "s", note="100,000 rows to repair")
    successor.close()


def lookups(report: Report, mirror: Mirror, rows: int) -> None:
    """Rows of a request: 200 items with 5 keys each."""
    rng = np.random.default_rng(SEED)
    keys = rng.integers(1, rows + 1, 1_000).astype(np.uint64)
    plain = rng.normal(size=(rows, DIM)).astype(np.float32)
    places = keys.astype(np.int64) - 1
    known_s = seconds(lambda: [plain[places] for _ in range(100)]) / 100
    shared_s = seconds(lambda: [mirror.table.lookup(keys) for _ in range(100)]) / 100
    note = f"numpy on known rows: {known_s * 1e6:.0f} us"
    report.add("lookup of 1,000 keys under locks", shared_s * 1e6, "us", note=note)


def scores(report: Report, folder: Path, items: int) -> None:
    """The retrieval scan."""
    writer = VectorsWriter(HeadWriter(folder), 1, DIM + 1)
    slots = np.arange(items, dtype=np.int64)
    writer.write(slots, np.random.default_rng(SEED).normal(size=(items, DIM + 1)).astype(np.float32))
    vectors = map_vectors(max(folder.glob("vectors.*"), key=lambda path: int(path.suffix[1:])))
    query = np.ones(DIM + 1, np.float32)
    matrix = vectors.matrix[:items].copy()
    plain_s = seconds(lambda: matrix @ query, repeats=50)
    shared_s = seconds(lambda: vectors.scores(query, items), repeats=50)
    note = f"BLAS on memory of its own: {plain_s * 1e6:.0f} us"
    report.add(f"scores of {items:,} items under locks", shared_s * 1e6, "us", note=note)


def main() -> int:
    options = parse(__doc__ or "")
    rows, items = (20_000, 5_000) if options.quick else (1_000_000, 50_000)
    report = Report(
        "updates: from a learned row to serving",
        options,
        packages=("kafka-python", "numba", "numpy"),
        sizes={"rows": rows, "columns": DIM, "rows per small frame": ROWS_PER_FRAME, "items": items},
        seeds=(SEED,),
    )
    with tempfile.TemporaryDirectory() as name, running_stack(Path(name) / "stack", "kafka") as stack:
        folder = Path(name)
        settings = ServingSettings(
            kafka=stack.settings.kafka,
            learning=LearningSettings(model=ModelSettings(dim=DIM - 1)),
            shm_dir=f"/dev/shm/freshet-benchmark-{os.getpid()}",
        )
        with replica(settings, folder) as mirror:
            table, publisher = Table(TableSettings(dim=DIM)), Publisher(settings.kafka)
            publisher.begin_epoch(LogPosition(), table, {0: 0})
            latency(report, table, publisher, mirror, settings.kafka)
            bulk(report, table, publisher, mirror, rows)
            lookups(report, mirror, rows)
            takeover(report, table, publisher, mirror, settings.kafka)
        scores(report, folder, items)
    return report.finish()


if __name__ == "__main__":
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        # As serving has it; numpy reads it once, when it is imported.
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **threads})
    raise SystemExit(main())
