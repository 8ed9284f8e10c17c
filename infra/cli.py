"""The `freshet` command."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated

import typer
from rich.live import Live

from infra import settings as settings_module
from infra.ab import ab
from infra.backfill import backfill
from infra.chaos.command import chaos
from infra.console import Config, StateDir, actual, out, print_json, reported
from infra.demo.command import demo
from infra.inputs import probe, replay, simulate
from infra.settings import Settings, SettingsError
from infra.studies import experiment
from infra.table import app as table
from infra.verify import verify

app = typer.Typer(
    name="freshet",
    help="A streaming real-time recommendation system: a click changes what is served in under a second.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@contextmanager
def _reported() -> Iterator[None]:
    from infra.control import StackError
    from infra.local.install import InstallError

    with reported(StackError, InstallError):
        yield


def _names(only: str | None) -> tuple[str, ...]:
    from infra.local.stack import NAMES

    names = tuple(name.strip() for name in only.split(",")) if only else NAMES
    for name in names:
        if name not in NAMES:
            raise SettingsError(f"--only: {name!r} is unknown: must be one of {', '.join(NAMES)}")
    return names


def _install(settings: Settings, names: tuple[str, ...]) -> None:
    from infra.local.stack import install

    with out.status("fetching servers that are not in the cache yet"):
        install(settings, names)


@app.command()
def install(config: Config = None) -> None:
    """Fetch the servers of the local stack into the cache folder (`up` does so too)."""
    with _reported():
        settings = settings_module.load(config)
        _install(settings, _names(None))
        out.print(f"the servers are in {settings.cache}", highlight=False)


@app.command()
def up(
    config: Config = None,
    state: StateDir = None,
    only: Annotated[str | None, typer.Option(help="Start only these, as kafka,redis.")] = None,
    foreground: Annotated[bool, typer.Option(help="Stay, and stop everything with Ctrl-C.")] = False,
    owner: Annotated[int | None, typer.Option("--while", help="Stop when this process ends.")] = None,
) -> None:
    """Start the local stack and wait until everything answers."""
    from infra.control import StackError, start
    from infra.local.state import State
    from infra.status import gather, running
    from infra.status_table import progress_table, status_table

    with _reported():
        settings = settings_module.load(config, state)
        names = _names(only)
        folder = State(settings.state)
        status = running(folder)
        already = status is not None and status.phase != "stopping"
        if not already:
            _install(settings, names)
        if foreground:
            if already:
                raise StackError(f"already up in {settings.state}")
            _supervise(settings, names, owner)
            return
        with Live(console=out, transient=True, refresh_per_second=8) as live:
            start(settings, names, settings_module.used(config), owner, lambda word: live.update(progress_table(word)))
        if already:
            out.print("already up", style="yellow")
        out.print(status_table(gather(actual(settings), folder)))


def _supervise(settings: Settings, names: tuple[str, ...], owner: int | None) -> None:
    from infra.control import StackError
    from infra.local.__main__ import supervise
    from infra.local.supervisor import AlreadyUp
    from infra.process import configure_logging

    configure_logging(settings.local.log_level)
    try:
        supervise(settings, names, owner)
    except AlreadyUp as error:
        raise StackError(f"already up in {error}") from error


@app.command()
def down(
    config: Config = None,
    state: StateDir = None,
    erase: Annotated[bool, typer.Option(help="Delete the state folder with all its data, too.")] = False,
) -> None:
    """Stop the local stack; also ends exactly what a killed one left behind."""
    from infra.control import check_erasable, stop
    from infra.local.state import State
    from infra.status_table import progress_table

    with _reported():
        settings = settings_module.load(config, state)
        folder, used = State(settings.state), settings_module.used(config)
        if erase:
            check_erasable(folder, *([used] if used else []))
        with Live(console=out, transient=True, refresh_per_second=8) as live:
            ended = stop(settings, lambda word: live.update(progress_table(word)))
        out.print(f"ended {', '.join(ended)}" if ended else "nothing was running", highlight=False)
        if erase:
            folder.erase()
            out.print(f"erased {settings.state}", highlight=False)


@app.command()
def status(
    config: Config = None,
    state: StateDir = None,
    watch: Annotated[bool, typer.Option(help="Refresh until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say how every server and process is; exit code 3 where not everything is up."""

    from infra.local.state import State
    from infra.status import gather
    from infra.status_table import status_table

    with _reported():
        settings = settings_module.load(config, state)
        folder = State(settings.state)
        report = gather(actual(settings), folder)
        if watch:
            with (
                suppress(KeyboardInterrupt),
                Live(status_table(report), console=out, screen=True, auto_refresh=False) as live,
            ):
                while True:
                    time.sleep(1.0)
                    live.update(status_table(gather(actual(settings), folder)), refresh=True)
            return
        if as_json:
            print_json(report)
        else:
            out.print(status_table(report))
        if report.phase != "up":
            raise typer.Exit(3)


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="kafka, worker, …, or supervisor.")],
    config: Config = None,
    state: StateDir = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many lines from the end.")] = 50,
) -> None:
    """Show the log of a process."""
    from infra.local import logs as log_files
    from infra.local.stack import NAMES
    from infra.local.state import State

    with _reported():
        known = (*NAMES, "supervisor")
        if name not in known:
            raise SettingsError(f"{name!r} is unknown: must be one of {', '.join(known)}")
        path = State(settings_module.load(config, state).state).log(name)
        if not path.exists():
            raise SettingsError(f"{name} has no log yet: {path}")
        sys.stdout.buffer.write(log_files.tail(path, lines))
        sys.stdout.buffer.flush()
        if not follow:
            return
        with suppress(KeyboardInterrupt, BrokenPipeError):
            for chunk in log_files.follow(path, going=lambda: True):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()


app.command()(verify)
app.command()(replay)
app.command()(backfill)
app.command()(simulate)
app.command()(probe)
app.command()(ab)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(experiment)
app.command()(demo)
app.command()(chaos)
app.add_typer(table, name="table")


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
