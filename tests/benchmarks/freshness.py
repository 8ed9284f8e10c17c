"""From a click to an answer that contains it, by lineage, with everything running and a load beside it.

    python -m tests.benchmarks.freshness [--quick] [--json FILE] [--probes N] [--events N]

The whole local stack runs; a simulated world asks for 20 recommendations a second and acts until together some
`--events` (500) events a second enter Kafka, while `--probes` (500) clicks are followed one by one, four users at a
time. A time is taken in one process, from just before the click is sent until the answer is received.
"""

import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.inputs import run_simulation
from infra.settings import Settings
from serving.probe import FreshnessReport, Probe
from streams.kafka import consumer, partitions_of
from streams.simulation.loop import Traffic
from streams.topics import EVENTS
from tests.benchmarks.report import Options, Report, parse
from tests.stacks import running_stack

SEED = 1
SCENE = f"sim-{SEED}"
REQUESTS = 20.0
# An organic act is a view and, now and then, a click; a request makes some clicks: seen in this world.
EVENTS_PER_ACT, EVENTS_PER_REQUEST = 1.2, 0.9
# The first examples of a new model, and Triton's first requests, are not what is asked about.
WARM_UP_S = 20.0


def produced(settings: Settings) -> int:
    """Records on `events` so far."""
    reader = consumer(settings.kafka)
    try:
        return sum(reader.end_offsets(partitions_of(reader, EVENTS.name)).values())
    finally:
        reader.close()


def measure(settings: Settings, probes: int, per_second: float) -> tuple[FreshnessReport, float]:
    """The probes, and the events a second that entered Kafka meanwhile."""
    organic = max(0.0, (per_second - REQUESTS * EVENTS_PER_REQUEST) / EVENTS_PER_ACT)
    traffic = Traffic(rate=REQUESTS, seconds=3600.0, organic=organic)
    stop, begun = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run_simulation, settings, SEED, SCENE, traffic, stop, lambda _: begun.set())
        try:
            if not begun.wait(120.0):
                load.result(0)
            stop.wait(WARM_UP_S)
            with Probe(settings.serving, scene=SCENE) as probe:
                before, began_s = produced(settings), time.monotonic()
                report = probe.run(probes)
                rate = (produced(settings) - before) / (time.monotonic() - began_s)
        finally:
            stop.set()
        load.result()
    return report, rate


def main(options: Options) -> int:
    probes = int(options.extra.get("probes", 20 if options.quick else 500))
    per_second = float(options.extra.get("events", 500))
    report = Report(
        "Freshness: a click until an answer contains it",
        options,
        packages=("kafka-python", "faust-streaming", "torch", "numba"),
        sizes={"probes": probes, "events/s asked": per_second, "requests/s": REQUESTS},
        seeds=[SEED],
    )
    with tempfile.TemporaryDirectory() as folder, running_stack(Path(folder)) as stack:
        found, rate = measure(stack.settings, probes, per_second)
    report.add("events entering Kafka", rate, "/s", at_least=0.95 * per_second)
    report.add("clicks followed", len(found.probes), "", at_least=probes)
    report.add("clicks lost", found.lost, "", equals=0)
    for percent, bar in ((50, 250.0), (99, 1_000.0), (100, None)):
        name = f"p{percent}" if percent < 100 else "longest"
        report.add(f"click to answer, {name}", found.percentile("total_ms", percent), "ms", at_most=bar)
    for percent in (50, 99):
        report.add(f"click to example, p{percent}", found.percentile("example_ms", percent), "ms")
        report.add(f"that answer alone, p{percent}", found.percentile("answer_ms", percent), "ms")
    return report.finish()


if __name__ == "__main__":
    names = {"probes": "clicks to follow", "events": "events a second beside them"}
    sys.exit(main(parse(__doc__ or "", extra=names)))
