"""The commands that bring data in and time its way: `freshet replay`, `freshet simulate`, `freshet probe`."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from infra import settings as settings_module
from infra.console import AsJson, Config, StateDir, actual, err, out, print_json, reported
from infra.settings import Settings, SettingsError
from streams.simulation.tally import Snapshot, Tally

if TYPE_CHECKING:
    from serving.probe import FreshnessReport

# A simulated user waits so long for an answer: also on a machine that does much else.
_PATIENCE_S: Final = 10.0
Data = Annotated[
    Path,
    typer.Option("--data", envvar="FRESHET_DATA", help="The folder of real data sets."),
]


def running_settings(config: Path | None, state: Path | None) -> Settings:
    """The settings with the addresses of the stack that runs, else the file's own; raises SettingsError without any
    Kafka."""
    settings = actual(settings_module.load(config, state))
    if not settings.kafka.bootstrap:
        raise SettingsError(f"no stack runs in {settings.state}: run `freshet up`, or set kafka.bootstrap")
    return settings


@contextmanager
def _reported() -> Iterator[None]:
    from kafka.errors import KafkaError

    from streams.kafka import BrokerAway, BufferFull

    with reported(BrokerAway, BufferFull, KafkaError):
        yield


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set while the block runs, so that it ends in order."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replay(
    name: Annotated[str, typer.Argument(help="ml-100k, globo or frappe.")],
    speed: Annotated[str, typer.Option(help="Events a second, or max.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="Stop at this row of the log.")] = None,
    restart: Annotated[bool, typer.Option(help="Forget how far an earlier run came.")] = False,
    data: Data = Path("../shared/data"),
    config: Config = None,
    state: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Replay a real log; run again after Ctrl-C or a kill to go on where it ended."""
    from streams.datasets import DatasetMissing, open_dataset
    from streams.replay import Replay

    with _reported(), stopped_by_signals() as stop:
        pace = _speed(speed)
        try:
            dataset = open_dataset(name, data)
        except ValueError as error:
            raise SettingsError(str(error)) from error
        except DatasetMissing as error:
            raise SettingsError(f"{error}: name the folder of the data sets with --data or FRESHET_DATA") from error
        job = Replay(dataset, running_settings(config, state).kafka)
        rows = min(dataset.rows, limit) if limit else dataset.rows
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err) as bar:
            task = bar.add_task(f"replay {name}", total=rows)
            report = job.run(
                now_ms=time.time_ns() // 1_000_000,
                stop=stop,
                limit=limit,
                speed=pace,
                restart=restart,
                tell=lambda row: bar.update(task, completed=row),
            )
        if as_json:
            print_json(report)
        else:
            out.print(
                f"{name}: sent {report.sent} events (rows {report.first} to {report.last} of {report.rows}), "
                f"{report.items} items, {report.users} users in {report.seconds:.1f} s",
                highlight=False,
            )
        if report.last < rows:
            err.print("stopped: the same command goes on from here", highlight=False)
            raise typer.Exit(130)


def simulate(
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 30.0,
    seconds: Annotated[float, typer.Option(min=1.0, help="How long.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another world.")] = 0,
    scene: Annotated[str | None, typer.Option(help="Its scene (default: sim-SEED).")] = None,
    organic: Annotated[float, typer.Option(min=0.0, help="Acts a second without a request.")] = 5.0,
    slots: Annotated[int, typer.Option(min=1, help="Items per request.")] = 10,
    threads: Annotated[int, typer.Option(min=1, help="Requests at the same time, at most.")] = 4,
    dwell: Annotated[bool, typer.Option("--dwell", help="Users also tell how long they stayed.")] = False,
    config: Config = None,
    state: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Let a world of users ask for recommendations and act on them; it knows how good they could have been."""
    from streams.simulation.loop import Traffic

    with _reported(), stopped_by_signals() as stop:
        settings = running_settings(config, state)
        traffic = Traffic(rate=rate, seconds=seconds, slots=slots, threads=threads, organic=organic, dwell=dwell)
        with Live(console=err, refresh_per_second=4) as live:
            snapshot = run_simulation(
                settings, seed, scene or f"sim-{seed}", traffic, stop, lambda now: live.update(simulation_table(now))
            )
        if as_json:
            print_json({**msgspec.to_builtins(snapshot), "arms": {a: _figures(t) for a, t in snapshot.arms.items()}})
        else:
            out.print(simulation_table(snapshot))


def run_simulation(
    settings: Settings,
    seed: int,
    scene: str,
    traffic: Any,
    stop: threading.Event,
    tell: Callable[[Snapshot], None] = lambda snapshot: None,
    took_ms: list[float] | None = None,
) -> Snapshot:
    """Runs the world `seed` (streams.simulation.loop.Traffic) against Triton; its events go to Kafka.

    What each answer took, as the user waited for it, is added to `took_ms`.

    Waits up to a minute for the first answer that has items of the scene. Raises SettingsError without Triton.
    """
    from serving.client import Recommender, RecommendError
    from streams.kafka import producer
    from streams.simulation.loop import Answered, NoAnswer, Simulation
    from streams.simulation.world import World

    if not settings.serving.triton.grpc:
        raise SettingsError("`serving.triton.grpc` is empty: run `freshet up`, or name a Triton")
    with (
        Recommender(settings.serving.triton.grpc, _PATIENCE_S) as client,
        producer(settings.kafka, client_id="simulate") as sender,
    ):

        def answer(user: str, n: int, context: dict[str, Any]) -> Answered:
            asked_s = time.monotonic()
            try:
                got = client.recommend(user, n, context)
            except RecommendError as error:
                raise NoAnswer(str(error)) from error
            if took_ms is not None:
                took_ms.append(1e3 * (time.monotonic() - asked_s))
            arm = "+".join(sorted(got.versions.arms.values())) or got.versions.policy
            return Answered(got.items, got.request_id, arm)

        simulation = Simulation(World(seed), scene, traffic, answer, sender.send)
        simulation.publish_catalogue()
        sender.flush(60.0)
        _wait_served(lambda: answer(f"w{seed}-nobody", 1, {"scene": scene, "dry_run": True}).items, NoAnswer, stop)
        snapshot = simulation.run(stop, tell)
        sender.flush(60.0)
    return snapshot


def probe(
    count: Annotated[int, typer.Option(min=1, help="How many clicks to follow.")] = 100,
    scene: Annotated[str, typer.Option(help="Whose items to click on (default: any).")] = "",
    concurrency: Annotated[int, typer.Option(min=1, help="Users at a time.")] = 4,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds between a user's clicks.")] = 0.05,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which a click counts as lost.")] = 30.0,
    config: Config = None,
    state: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Click as a user and time how long it takes until an answer contains that click."""
    from serving.probe import NothingToMeasure, Probe

    with _reported(), stopped_by_signals() as stop:
        settings = running_settings(config, state).serving
        if not settings.triton.grpc:
            raise SettingsError("`serving.triton.grpc` is empty: run `freshet up`, or name a Triton")
        try:
            with (
                Progress(console=err, transient=True) as bar,
                Probe(
                    settings, scene=scene, concurrency=concurrency, pause_s=pause, timeout_s=timeout, stop=stop
                ) as prober,
            ):
                task = bar.add_task("probe", total=count)
                report = prober.run(count, lambda done: bar.update(task, completed=done))
        except NothingToMeasure as error:
            raise SettingsError(str(error)) from error
        if as_json:
            print_json({**freshness_figures(report), "probes": report.probes})
        else:
            out.print(freshness_table(report))
        if report.lost:
            raise typer.Exit(1)


def freshness_figures(report: "FreshnessReport") -> dict[str, float]:
    """The figures that tables and JSON show, all times in ms."""
    figures: dict[str, float] = {"count": len(report.probes), "lost": report.lost, "seconds": report.seconds}
    for stage in ("total", "example", "answer"):
        for percent in (50, 99, 100):
            name = f"{stage}_{'max' if percent == 100 else f'p{percent}'}_ms"
            figures[name] = report.percentile(f"{stage}_ms", percent)
    return figures


def freshness_table(report: "FreshnessReport") -> Table:
    """p50, p99 and the longest of every stage."""
    figures = freshness_figures(report)
    table = Table(title=f"freshness of {len(report.probes)} clicks, {report.lost} lost")
    for column in ("from the click until", "p50 ms", "p99 ms", "max ms"):
        table.add_column(column, justify="left" if column.startswith("from") else "right")
    rows = {"its example is in the log": "example", "an answer contains it": "total", "(that answer alone)": "answer"}
    for words, stage in rows.items():
        table.add_row(words, *(f"{figures[f'{stage}_{part}_ms']:.1f}" for part in ("p50", "p99", "max")))
    return table


def _wait_served(items: Callable[[], list[str]], failure: type[Exception], stop: threading.Event) -> None:
    deadline_s = time.monotonic() + 60.0
    while time.monotonic() < deadline_s and not stop.is_set():
        try:
            if items():
                return
        except failure:
            pass
        stop.wait(0.1)


def simulation_table(snapshot: Snapshot) -> Table:
    """CTR and regret per arm, beside what the world knows to be possible."""
    table = Table(title=f"simulation, {snapshot.seconds:.0f} s")
    for column in ("arm", "requests", "CTR", "expected", "best possible", "best popularity", "regret"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    rows = {**dict(sorted(snapshot.arms.items())), "all": snapshot.total}
    for arm, tally in rows.items():
        figures = (tally.ctr, tally.expected_ctr, tally.best_ctr, tally.popularity_ctr, tally.regret)
        table.add_row(arm, str(tally.requests), *(f"{figure:.2%}" for figure in figures))
    failed = f"{snapshot.failed} without answer, {snapshot.empty} without items, {snapshot.organic} organic acts"
    table.caption = failed
    return table


def _figures(tally: Tally) -> dict[str, float]:
    derived = ("ctr", "expected_ctr", "best_ctr", "popularity_ctr", "regret")
    return {**msgspec.to_builtins(tally), **{name: getattr(tally, name) for name in derived}}


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise SettingsError(f"`--speed` == {text!r}, must be max or a number of events a second")
    return speed
