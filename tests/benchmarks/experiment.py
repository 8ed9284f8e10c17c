"""Experiments on the whole stack: the online model against popularity, and a frozen policy against itself.

    python -m tests.benchmarks.experiment [--quick] [--json FILE] [--seconds S] [--rate R]

*A/B*: for each of 5 seeds a world of its own meets a stack of its own, empty at first; `freshet ab`'s report judges it.
*A/A*: one stack serves 20 worlds, each with an experiment whose two arms have the same policy. After a warm-up the
replica is suspended, so that what is served changes no more; each world is then simulated with its frozen model and
judged from that moment on. At 5% about one of 20 differs by chance; more than 3 would show a split or an interval that
is wrong (probability .016 when all is right).
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.demo.ledger import Ledger
from infra.inputs import run_simulation
from infra.settings import Settings
from serving.evaluation.clickhouse import connect
from serving.evaluation.queries import counts
from serving.evaluation.report import AbReport, ab
from streams.simulation.loop import Traffic
from tests.benchmarks.report import Options, Report, parse
from tests.stacks import RunningStack, running_stack

AB_SEEDS = (1, 2, 3, 4, 5)
AA_SEEDS = tuple(range(101, 121))
LEVEL = 0.05

JOIN = """
[streams.join]
window_s = 5.0
lateness_s = 1.0
idle_s = 0.5
"""

# All arms learn together: the arms of an A/A experiment must not differ in what they know.
SAME_FOR_ALL = """
[learning.trainer]
arm = ""
"""

AA = """
[[serving.experiments]]
name = "aa-{seed}"
scene = "sim-{seed}"
control = "b"
arms = [{{ name = "a", policy = "online" }}, {{ name = "b", policy = "online" }}]
"""


def judged(settings: Settings, experiment: str, since_ms: int | None = None, timeout_s: float = 120.0) -> AbReport:
    """The experiment's report once ClickHouse holds every action and impression that Kafka does."""
    ledger, client = Ledger(settings.streams), connect(settings.serving.clickhouse)
    try:
        deadline_s = time.monotonic() + timeout_s
        while True:
            ledger.read()
            stored = counts(client)
            if all(stored[topic].records == ledger.counts[topic] for topic in ("actions", "impressions")):
                return ab(client, experiment, since_ms=since_ms)
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"ClickHouse does not hold what Kafka does after {timeout_s:g} s")
            time.sleep(0.5)
    finally:
        client.close()


def simulate(settings: Settings, seed: int, rate: float, seconds: float) -> Any:
    """One world against Triton for a while."""
    traffic = Traffic(rate=rate, seconds=seconds, organic=2.0)
    return run_simulation(settings, seed, f"sim-{seed}", traffic, threading.Event())


def with_stack(config: str, work: Callable[[RunningStack], None]) -> None:
    """Runs `work` with a whole stack of these settings on an empty state folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "freshet.toml"
        path.write_text(config)
        with running_stack(Path(folder) / "state", config=path) as stack:
            work(stack)


def against_popularity(report: Report, seed: int, rate: float, seconds: float) -> bool:
    """One A/B run; whether the interval of the difference lies above zero."""
    found: list[AbReport] = []

    def work(stack: RunningStack) -> None:
        simulate(stack.settings, seed, rate, seconds)
        found.append(judged(stack.settings, "online-vs-popularity"))

    with_stack(JOIN, work)
    difference = found[0].comparisons[0].difference
    arms = ", ".join(f"{arm.arm} {arm.ctr:.2%} of {arm.impressions:,}" for arm in found[0].arms)
    note = f"{arms}; sample ratio p {found[0].sample_ratio_p:.2g}"
    report.add(f"seed {seed}: CTR difference", difference.value, "", note=note)
    report.add(f"seed {seed}: 95% interval from", difference.low, "", note=f"to {difference.high:.4f}")
    return difference.low > 0


def against_itself(report: Report, seeds: tuple[int, ...], rate: float, seconds: float, warm_up_s: float) -> None:
    """All A/A runs on one stack."""
    different: list[int] = []
    broken: list[int] = []

    def work(stack: RunningStack) -> None:
        settings = stack.settings
        for seed in seeds:
            simulate(settings, seed, rate, warm_up_s)
        os.kill(stack.pid("replica"), signal.SIGSTOP)
        try:
            for seed in seeds:
                since_ms = time.time_ns() // 1_000_000
                simulate(settings, seed, rate, seconds)
                found = judged(settings, f"aa-{seed}", since_ms)
                if found.comparisons[0].difference.p < LEVEL:
                    different.append(seed)
                if not found.sample_ratio_ok:
                    broken.append(seed)
        finally:
            os.kill(stack.pid("replica"), signal.SIGCONT)

    with_stack(JOIN + SAME_FOR_ALL + "".join(AA.format(seed=seed) for seed in seeds), work)
    note = f"seeds {', '.join(map(str, different))}" if different else ""
    report.add(f"A/A: of {len(seeds)} seeds different at 5%", len(different), "", at_most=3, note=note)
    report.add("A/A: sample-ratio alarms", len(broken), "", equals=0)


def main(options: Options) -> int:
    quick = options.quick
    seconds = float(options.extra.get("seconds", 15 if quick else 90))
    rate = float(options.extra.get("rate", 20 if quick else 40))
    ab_seeds, aa_seeds = (AB_SEEDS[:1], AA_SEEDS[:2]) if quick else (AB_SEEDS, AA_SEEDS)
    report = Report(
        "Experiments: online against popularity, and a frozen policy against itself",
        options,
        packages=("torch", "numba", "chdb"),
        sizes={"requests/s": rate, "seconds per A/B run": seconds, "A/A runs": len(aa_seeds)},
        seeds=(*ab_seeds, *aa_seeds),
    )
    won = [against_popularity(report, seed, rate, seconds) for seed in ab_seeds]
    report.add(f"A/B: of {len(won)} seeds with the interval above zero", sum(won), "", at_least=len(won))
    against_itself(report, aa_seeds, rate, 12.0, 5.0)
    return report.finish()


if __name__ == "__main__":
    names = {"seconds": "seconds per A/B run", "rate": "requests a second"}
    sys.exit(main(parse(__doc__ or "", extra=names)))
