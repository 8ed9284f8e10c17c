"""The demo: the whole loop on real servers, from events to a judged experiment, and what it measured."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from rich.console import Console

from infra.ab import ab_table, click_kinds
from infra.control import check_erasable, start, stop
from infra.demo import malformed
from infra.demo.ledger import Ledger
from infra.demo.measured import Measured
from infra.inputs import run_simulation, simulation_table
from infra.local.stack import NAMES, install
from infra.local.state import State
from infra.settings import Settings, load, resolved
from infra.status import gather
from infra.status_table import status_table
from serving.evaluation.clickhouse import connect
from serving.evaluation.progressive import progressive
from serving.evaluation.queries import counts
from serving.evaluation.report import AbReport, ab
from serving.probe import FreshnessReport, Probe
from streams.datasets import DatasetMissing, open_dataset
from streams.health import read_health
from streams.replay import Replay
from streams.simulation.loop import Traffic
from streams.simulation.tally import Snapshot

CONFIG = Path(__file__).with_name("demo.toml")
DATASET = "ml-100k"
EXPERIMENT = "online-vs-popularity"


class Plan(Struct, frozen=True, kw_only=True):
    """How much the demo does. `settle_s`: how long the logs may take to come to agree after the last event."""

    seed: int = 1
    rate: float = 30.0
    seconds: float = 90.0
    probes: int = 100
    settle_s: float = 90.0


class Demo:
    """The steps, in order, against a stack that runs."""

    def __init__(self, settings: Settings, plan: Plan, console: Console) -> None:
        self._settings, self._plan, self._console = settings, plan, console
        self._scene = f"sim-{plan.seed}"

    def run(self, data: Path) -> Measured:
        """Every step; raises BrokerAway where the logs do not come to agree."""
        bad = malformed.send(self._settings.kafka)
        self._say(f"sent {bad} malformed records of as many kinds")
        replayed = self._replay(data)
        snapshot, took_ms = self._simulate()
        freshness = self._probe()
        return self._judge(self._settle(), bad, replayed, snapshot, took_ms, freshness)

    def _replay(self, data: Path) -> int:
        try:
            dataset = open_dataset(DATASET, data)
        except DatasetMissing as error:
            self._say(f"no real data ({error}): the simulated world alone")
            return 0
        with self._console.status(f"replaying {DATASET}"):
            job = Replay(dataset, self._settings.kafka)
            done = job.run(now_ms=time.time_ns() // 1_000_000, stop=threading.Event())
        self._say(f"replayed {done.sent:,} real events of {DATASET} in {done.seconds:.1f} s")
        self._learned(done.sent)
        return done.sent

    def _learned(self, examples: int) -> None:
        """Waits until the trainer has learned the replay, so that the simulated users meet an up-to-date model."""
        began_s, seen = time.monotonic(), 0
        path = State(self._settings.state).health("trainer")
        with self._console.status("") as line:
            while time.monotonic() - began_s < self._plan.settle_s:
                said = read_health(path)
                seen = int(said.values.get("examples", 0)) if said is not None else 0
                if seen >= examples:
                    break
                line.update(f"learning: {seen:,} of {examples:,} examples")
                time.sleep(0.2)
        self._say(f"learned {seen:,} examples, {time.monotonic() - began_s:.0f} s after the last event")

    def _simulate(self) -> tuple[Snapshot, list[float]]:
        plan, took_ms = self._plan, []  # type: tuple[Plan, list[float]]
        traffic = Traffic(rate=plan.rate, seconds=plan.seconds, organic=5.0)
        with self._console.status("") as line:
            snapshot = run_simulation(
                self._settings,
                plan.seed,
                self._scene,
                traffic,
                threading.Event(),
                lambda now: line.update(f"simulating: {now.seconds:.0f} of {plan.seconds:.0f} s, {_ctrs(now)}"),
                took_ms,
            )
        self._console.print(simulation_table(snapshot))
        return snapshot, took_ms

    def _probe(self) -> FreshnessReport:
        with (
            Probe(self._settings.serving, scene=self._scene) as probe,
            self._console.status("") as line,
        ):
            report = probe.run(self._plan.probes, lambda n: line.update(f"probing freshness: {n} clicks"))
        self._say(f"probed freshness with {len(report.probes)} clicks in {report.seconds:.1f} s")
        return report

    def _settle(self) -> Ledger:
        """Waits until Kafka holds what the join should give and ClickHouse holds what Kafka does."""
        ledger, client = Ledger(self._settings.streams), connect(self._settings.serving.clickhouse)
        deadline_s = time.monotonic() + self._plan.settle_s
        with self._console.status("waiting for the last windows to end and the logs to agree"):
            while True:
                ledger.read()
                stored = {table: count.records for table, count in counts(client).items()}
                agree = all(stored[t] == ledger.counts[t] for t in ("actions", "impressions", "examples"))
                # The reference join reads everything, so it is asked only when the counts have come to rest.
                if (agree and ledger.examples == ledger.expected()) or time.monotonic() > deadline_s:
                    client.close()
                    return ledger
                time.sleep(1.0)

    def _judge(
        self,
        ledger: Ledger,
        bad: int,
        replayed: int,
        snapshot: Snapshot,
        took_ms: list[float],
        freshness: FreshnessReport,
    ) -> Measured:
        client = connect(self._settings.serving.clickhouse)
        try:
            report: AbReport = ab(client, EXPERIMENT, click_kinds=click_kinds(self._settings))
            self._console.print(ab_table(report))
            made, expected = ledger.examples, ledger.expected()
            return Measured(
                malformed=bad,
                replayed=replayed,
                kafka=dict(ledger.counts),
                clickhouse=counts(client),
                examples=len(made),
                examples_expected=len(expected),
                examples_wrong=sum(made.get(key) != expected.get(key) for key in made.keys() | expected.keys()),
                examples_repeated=ledger.repeated,
                learners=tuple(progressive(client, by_scene=True)),
                freshness=freshness,
                recommend_ms=tuple(took_ms),
                snapshot=snapshot,
                ab=report,
            )
        finally:
            client.close()

    def _say(self, text: str) -> None:
        self._console.print(f"• {text}", highlight=False)


def run(data: Path, state_dir: Path, plan: Plan, console: Console) -> Measured:
    """Runs the demo in a fresh state folder and stops everything, whatever happens.

    Raises StackError, BrokerAway, InstallError.
    """
    settings = load(CONFIG, state_dir)
    with stack(settings, console) as running:
        return Demo(running, plan, console).run(data)


@contextmanager
def stack(settings: Settings, console: Console) -> Iterator[Settings]:
    """A whole stack on a fresh state folder while the block runs; what a killed demo left is ended and erased first."""
    check_erasable(State(settings.state))
    with console.status("fetching servers that are not in the cache yet"):
        install(settings, NAMES)
    stop(settings, lambda _: None)
    State(settings.state).erase()
    began_s = time.monotonic()
    with console.status("starting the servers"):
        start(settings, NAMES, CONFIG, os.getpid(), lambda _: None)
    try:
        running = resolved(settings.state)
        console.print(status_table(gather(running, State(settings.state))))
        console.print(f"• everything answers after {time.monotonic() - began_s:.0f} s", highlight=False)
        yield running
    finally:
        with console.status("stopping the servers"):
            stop(settings, lambda _: None)


def _ctrs(snapshot: Snapshot) -> str:
    return ", ".join(f"{arm} {tally.ctr:.1%}" for arm, tally in sorted(snapshot.arms.items()))
