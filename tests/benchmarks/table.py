"""The embedding table against torch's index_select, a python dict and TorchRec's managed-collision table.

    python -m tests.benchmarks.table [--quick] [--json FILE] [--torchrec-python PYTHON]

`--torchrec-python`: an interpreter with torchrec 1.8 and fbgemm-gpu-cpu 1.8 (made for torch 2.13), for example from
    uv venv peer && uv pip install --python peer/bin/python torch==2.13.0 tensordict torchmetrics iopath pyre-extensions
    uv pip install --python peer/bin/python --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
"""

import gc
import json
import math
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from online_learning.table.settings import (
    EvictionPolicy,
    EvictionSettings,
    FullPolicy,
    OptimizerKind,
    OptimizerSettings,
    TableSettings,
)
from online_learning.table.table import Table
from tests.benchmarks.report import Options, Report, parse, seconds

DIM = 32
SEED = 1
THREADS = 2
ZIPF = 1.05
REPEATS = 5
# New rows a second, several times what a trainer makes that learns 10,000 examples a second with two new ids each.
PACE = 100_000
SETTINGS = TableSettings(dim=DIM, optimizer=OptimizerSettings(kind=OptimizerKind.ROWWISE_ADAGRAD), threads=THREADS)
Keys = NDArray[np.uint64]


def fill(table: Table, keys: Keys, batch: int) -> None:
    """Insert keys in batches."""
    for start in range(0, len(keys), batch):
        part = keys[start : start + batch]
        table.find_or_insert(part, np.zeros(len(part), np.uint16), 0, 1)


def warm_up() -> None:
    """Have everything compiled before anything is timed."""
    table = Table(SETTINGS, SEED)
    keys = np.arange(1, 100_001, dtype=np.uint64)
    fill(table, keys, 50_000)
    slots = table.find(keys)
    table.lookup(keys)
    table.gather(slots)
    table.apply_gradients(slots, np.zeros((len(slots), DIM), np.float32), 2)
    for rule in (
        TableSettings(dim=DIM, eviction=EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=1)),
        TableSettings(
            dim=DIM, max_rows=1_000, full=FullPolicy.EVICT, eviction=EvictionSettings(policy=EvictionPolicy.LRU)
        ),
    ):
        table = Table(rule)
        fill(table, keys[:1_500], 100)
        table.evict(10_000, 2)
        fill(table, keys[:500], 100)


def zipf_ranks(rng: np.random.Generator, rows: int, size: int) -> NDArray[np.int64]:
    """Ranks in [0, rows) with chance ~ 1 / (rank + 1)^1.05."""
    weights = np.arange(1, rows + 1, dtype=np.float64) ** -ZIPF
    return np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(size))


def distinct_keys(rng: np.random.Generator, count: int) -> Keys:
    """Distinct random keys, in random order."""
    keys: Keys = np.unique(rng.integers(1, 2**64, count + count // 1000 + 16, dtype=np.uint64))
    return rng.permutation(keys)[:count]


class Lookups:
    """Rows per second of find + gather by key, and of torch's index_select by slots that are known already.

    Each with results of its own, as it is called mostly, and (`_out`) into arrays that are given.
    """

    def __init__(self, table: Table, weight: torch.Tensor, queries: list[Keys]) -> None:
        count, batch = sum(map(len, queries)), len(queries[0])
        slots = [torch.from_numpy(table.find(query)) for query in queries]
        out, torch_out = np.empty((batch, DIM), np.float32), torch.empty(batch, DIM)

        def ours() -> None:
            for query in queries:
                table.lookup(query)

        def ours_out() -> None:
            for query in queries:
                table.lookup(query, out)

        def peer() -> None:
            for index in slots:
                torch.index_select(weight, 0, index)

        def peer_out() -> None:
            for index in slots:
                torch.index_select(weight, 0, index, out=torch_out)

        # The four take turns, so that a disturbance of the machine meets all of them.
        times: dict[str, list[float]] = {}
        for _ in range(REPEATS):
            for work in (ours, peer, ours_out, peer_out):
                times.setdefault(work.__name__, []).append(seconds(work, repeats=1, warm_ups=1))
        best = {name: count / min(taken) for name, taken in times.items()}
        self.ours, self.peer = best["ours"], best["peer"]
        self.ours_out, self.peer_out = best["ours_out"], best["peer_out"]


def measure_lookups(report: Report, table: Table, keys: Keys, batches: tuple[int, ...]) -> dict[int, float]:
    """find + gather against index_select on slots that are known already; uniform rates by batch size.

    Our table has its memory in huge pages (memory.py asks for them); torch's tensor has what torch gives its users.
    Both sides run on the same number of threads.
    """
    rng = np.random.default_rng(SEED)
    # A tensor of its own: that is what a user of torch has.
    weight = torch.randn(len(keys), DIM)
    rates: dict[int, float] = {}
    rows = len(keys)
    for name in ("uniform", f"Zipf({ZIPF})"):
        for batch in batches:
            calls = max(2, 2_000_000 // batch)
            count = calls * batch
            chosen = rng.integers(0, rows, count) if name == "uniform" else zipf_ranks(rng, rows, count)
            rate = Lookups(table, weight, [keys[part] for part in chosen.reshape(calls, batch)])
            label = f"{name}, batch {batch:,}"
            report.add(f"find + gather, {label}", rate.ours / 1e6, "M/s")
            report.add(f"torch index_select, {label}", rate.peer / 1e6, "M/s")
            report.add(f"find + gather over index_select, {label}", rate.ours / rate.peer, "x", at_least=1.0)
            report.add(
                f"  the same into given arrays, {label}",
                rate.ours_out / rate.peer_out,
                "x",
                note=f"{rate.ours_out / 1e6:.1f} over {rate.peer_out / 1e6:.1f} M/s",
            )
            if name == "uniform":
                rates[batch] = rate.ours
    return rates


def fill_dict(slots: dict[int, int], keys: list[int]) -> None:
    """Number keys as they come, the plain way: a loop over a list of ints (converted from the array beforehand)."""
    for key in keys:
        slots.setdefault(key, len(slots))


class Insertion:
    """One way of inserting, by our table and by a dict in turns: keys per second, the best of the rounds.

    The best, because memory that this machine has not used before costs both more than the work on it.
    """

    def __init__(self, before: Keys, keys: Keys, batch: int, prepared: int = 0) -> None:
        ours, theirs = [], []
        known, listed = [int(key) for key in before], [int(key) for key in keys]
        for _ in range(REPEATS - 2):
            table = Table(SETTINGS, SEED)
            if prepared:
                table.prepare(prepared)
            fill(table, before, batch)
            ours.append(seconds(partial(fill, table, keys, batch), repeats=1, warm_ups=0))
            del table
            slots: dict[int, int] = {}
            fill_dict(slots, known)
            theirs.append(seconds(partial(fill_dict, slots, listed), repeats=1, warm_ups=0))
            del slots
        self.ours, self.dict = len(keys) / min(ours), len(keys) / min(theirs)


def mixed_keys(known: Keys, unseen: Keys, share: float) -> Keys:
    """All of `unseen` among uniformly drawn `known` ones, in random order, so that they are `share` of all."""
    rng = np.random.default_rng(SEED)
    return rng.permutation(np.concatenate([unseen, rng.choice(known, round(len(unseen) * (1 / share - 1)))]))


def measure_insertion(report: Report, keys: Keys, rows: int, batch: int) -> tuple[float, float]:
    """Find-or-insert, rows initialised and sightings noted, against a dict that only numbers the keys.

    Returns unseen keys per second (into prepared memory, into a new table).
    """
    known, unseen = keys[:rows], keys[rows : rows + rows // 10]
    mixed, quarter = mixed_keys(known, unseen, 0.1), rows // 4
    new, prepared = Insertion(known[:0], known, batch), Insertion(known[:0], known, batch, prepared=rows)
    ways = {
        f"{rows:,} unseen keys, new table": new,
        f"{rows:,} unseen keys, memory prepared": prepared,
        f"{rows:,} unseen keys, growing from {quarter:,} rows": Insertion(keys[:quarter], keys[quarter:][:rows], batch),
        f"90% of {rows:,} known keys, 10% unseen": Insertion(known, mixed, batch),
        f"90% of {rows:,} known keys, 10% unseen, memory prepared": Insertion(
            known, mixed, batch, prepared=rows + len(unseen)
        ),
        f"{rows:,} known keys": Insertion(known, np.random.default_rng(SEED).permutation(known), batch),
    }
    for name, way in ways.items():
        report.add(f"find-or-insert, {name}", way.ours / 1e6, "M/s", note=f"batch {batch:,}")
        report.add("  python dict setdefault", way.dict / 1e6, "M/s", note="keys to numbers, no rows")
        report.add("  find-or-insert over python dict", way.ours / way.dict, "x", at_least=10)
    return prepared.ours, new.ours


class Growth(NamedTuple):
    """Seconds of each insertion with the lookup behind it; the longest of a lookup, and of both in CPU time."""

    waits: list[float]
    find: float
    cpu: float


def grow(table: Table, keys: Keys, start: int, batch: int, per_second: float) -> Growth:
    """Inserts `keys` from `start` on, at most so many a second, looking others up between."""
    probe = keys[:batch].copy()
    find = cpu = 0.0
    waits: list[float] = []
    due_s = time.perf_counter()
    for place in range(start, len(keys), batch):
        part = keys[place : place + batch]
        spaces = np.zeros(len(part), np.uint16)
        time.sleep(max(0.0, due_s - time.perf_counter()))
        due_s += batch / per_second
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        table.find_or_insert(part, spaces, 0, 1)
        middle = time.perf_counter()
        table.find(probe)
        end = time.perf_counter()
        find = max(find, end - middle)
        cpu = max(cpu, time.thread_time() - begin_cpu)
        waits.append(end - begin)
    return Growth(waits, find, cpu)


def measure_growth(report: Report, keys: Keys, start: int, batch: int) -> None:
    """The longest that any call takes while a table grows; a lookup waits for at most one of each.

    Once as fast as rows can be made, which is faster than a virtual machine may be given memory by its host, and once
    at `PACE`. What was imported is kept from the garbage collector, whose pass over it (0.1 s and more) is not the
    table's.
    """
    for pace, how in ((PACE, f"{PACE:,} new rows a second"), (math.inf, "as fast as it can")):
        table = Table(SETTINGS, SEED)
        fill(table, keys[:start], 50_000)
        gc.collect()
        gc.freeze()
        growth = grow(table, keys, start, batch, pace)
        gc.unfreeze()
        label = f"{start:,} to {len(keys):,} rows, {batch:,} keys a call, {how}"
        report.add(
            f"worst wait of a lookup, growing {label}",
            max(growth.waits) * 1e3,
            "ms",
            at_most=20,
            note="an insertion in front of it included",
        )
        report.add("  of that, the longest find alone", growth.find * 1e3, "ms")
        report.add(
            "  the longest insertion + find in CPU time",
            growth.cpu * 1e3,
            "ms",
            note="without the waits for a core that a shared machine adds",
        )
        report.add("  99.9% of waits below", float(np.quantile(growth.waits, 0.999)) * 1e3, "ms")
        stats = table.stats()
        del table
    report.add(
        "bytes per row over embedding and optimizer state, at load 0.75",
        stats.overhead_at_full_load,
        "bytes",
        at_most=48,
    )
    report.add("  the same as it stands", stats.overhead_bytes_per_row, "bytes", note=f"load {stats.load:.2f}")


def measure_eviction(report: Report, keys: Keys, batch: int) -> None:
    """The longest call while rows go: those expired of a whole table, and the least of a full one."""
    ttl = msgspec.structs.replace(SETTINGS, eviction=EvictionSettings(policy=EvictionPolicy.TTL, ttl_s=10))
    table = Table(ttl, SEED)
    fill(table, keys, 200_000)
    calls = []
    while len(table):
        begin, begin_cpu = time.perf_counter(), time.thread_time()
        table.evict(20_000, 2)
        calls.append((time.perf_counter() - begin, time.thread_time() - begin_cpu))
    add_longest(report, f"longest of {len(calls)} calls that evict {len(keys):,} expired rows", calls)
    del table
    rows = len(keys) // 2
    for policy in (EvictionPolicy.LRU, EvictionPolicy.LFU):
        rule = EvictionSettings(policy=policy)
        table = Table(msgspec.structs.replace(SETTINGS, max_rows=rows, full=FullPolicy.EVICT, eviction=rule), SEED)
        fill(table, keys[:rows], 200_000)
        calls = []
        for start in range(rows, rows + rows // 4, batch):
            part = keys[start : start + batch]
            begin, begin_cpu = time.perf_counter(), time.thread_time()
            table.find_or_insert(part, np.zeros(len(part), np.uint16), 1_000_000, 2)
            calls.append((time.perf_counter() - begin, time.thread_time() - begin_cpu))
        name = f"longest insertion of {batch:,} keys into a full table of {rows:,} rows, {policy.value}"
        add_longest(report, name, calls)


def add_longest(report: Report, name: str, calls: list[tuple[float, float]]) -> None:
    """The longest of (wall s, CPU s) of calls."""
    wall, cpu = (max(times) * 1e3 for times in zip(*calls, strict=True))
    report.add(name, wall, "ms", at_most=20, note=f"{cpu:.1f} ms in CPU time")


def torch_optimizer(kind: OptimizerKind, weight: torch.nn.Parameter) -> torch.optim.Optimizer:
    """The optimizer of torch that takes sparse gradients and does the same."""
    if kind is OptimizerKind.ADAGRAD:
        return torch.optim.Adagrad([weight], lr=0.05)
    return torch.optim.SparseAdam([weight], lr=0.05)


def torch_step(
    weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer, rows: torch.Tensor, grads: torch.Tensor
) -> None:
    """One step on the sparse gradient that nn.Embedding(sparse=True) would leave."""
    weight.grad = torch.sparse_coo_tensor(rows[None], grads, weight.shape, check_invariants=False)
    optimizer.step()


def measure_steps(report: Report, keys: Keys, batch: int) -> None:
    """Gradients scattered with duplicates merged, and the optimizer step, against torch's sparse gradients."""
    rng = np.random.default_rng(SEED)
    drawn = keys[zipf_ranks(rng, len(keys), batch)]
    grads = rng.normal(size=(batch, DIM)).astype(np.float32)
    for kind in (OptimizerKind.ADAGRAD, OptimizerKind.LAZY_ADAM):
        table = Table(TableSettings(dim=DIM, optimizer=OptimizerSettings(kind=kind), threads=THREADS), SEED)
        fill(table, keys, 200_000)
        slots = table.find(drawn)
        weight = torch.nn.Parameter(torch.zeros(len(keys), DIM))
        optimizer = torch_optimizer(kind, weight)

        ours = batch / seconds(partial(table.apply_gradients, slots, grads, 2), repeats=20)
        peer = batch / seconds(
            partial(torch_step, weight, optimizer, torch.from_numpy(slots), torch.from_numpy(grads)), repeats=10
        )
        report.add(f"apply_gradients, {kind.value}, batch {batch:,}", ours / 1e6, "M/s")
        report.add(
            f"  over torch.optim on sparse gradients, {kind.value}",
            ours / peer,
            "x",
            note=f"torch {peer / 1e6:.2f} M/s",
        )


def measure_torchrec(
    report: Report, options: Options, rows: int, batch: int, inserted: tuple[float, float], found: float
) -> None:
    """TorchRec's figures of the same sizes, where an interpreter that has it was named.

    Its table is made for a number of rows before it is timed, as ours is where memory was prepared.
    """
    python = options.extra.get("torchrec-python")
    if python is None:
        report.note("TorchRec MCH ZCH was not measured: no --torchrec-python was given.")
        return
    script = Path(__file__).with_name("torchrec_zch.py")
    done = subprocess.run(
        [python, str(script), str(rows), str(DIM), str(batch), str(SEED)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode:
        report.note(f"TorchRec MCH ZCH did not run: {done.stderr.strip().splitlines()[-1:]}")
        return
    peer = json.loads(done.stdout.strip().splitlines()[-1])
    label = f"TorchRec {peer['torchrec']} MCH ZCH, batch {batch:,}"
    report.add(f"{label}: insert", peer["insert_per_s"] / 1e6, "M/s")
    report.add(f"{label}: remap + lookup", peer["remap_lookup_per_s"] / 1e6, "M/s")
    prepared, new = (rate / peer["insert_per_s"] for rate in inserted)
    report.add("find-or-insert over TorchRec", prepared, "x", at_least=20, note="both made for so many rows beforehand")
    report.add("  the same, ours a new table that takes memory as it grows", new, "x")
    report.add("find + gather over TorchRec remap + lookup", found / peer["remap_lookup_per_s"], "x", at_least=3)


def main() -> int:
    """Run all of it; 1 where a bar was missed."""
    options = parse(__doc__ or "", extra={"torchrec-python": "interpreter that has torchrec"})
    rows, most, small, large = (
        (100_000, 200_000, 20_480, 50_000) if options.quick else (4_000_000, 8_000_000, 20_480, 200_000)
    )
    torch.set_num_threads(THREADS)
    report = Report(
        "embedding table",
        options,
        packages=("numpy", "numba", "torch"),
        sizes={"rows": rows, "dim": DIM, "threads": THREADS},
        seeds=(SEED,),
    )
    warm_up()
    keys = distinct_keys(np.random.default_rng(SEED), most)
    inserted = measure_insertion(report, keys, rows, large)
    table = Table(SETTINGS, SEED)
    fill(table, keys[:rows], large)
    found = measure_lookups(report, table, keys[:rows], (small, large))
    measure_steps(report, keys[:rows], small)
    measure_growth(report, keys, most // 8, 1024)
    measure_eviction(report, keys[:rows], 1024)
    measure_torchrec(report, options, rows, large, inserted, found[large])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
