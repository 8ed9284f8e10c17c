"""`freshet chaos`."""

import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from infra.console import out, reported

_ONLY = "Only these of failpoints, kills, takeover, disk, as kills,disk."


def chaos(
    quick: Annotated[bool, typer.Option(help="All of it in its shortest form.")] = False,
    kills: Annotated[int | None, typer.Option(min=1, help="Random kills (default 200).")] = None,
    hits: Annotated[int | None, typer.Option(min=1, help="How often each failpoint strikes (default 5).")] = None,
    points: Annotated[
        str | None, typer.Option(help="Only failpoints whose names begin so, as trainer.,worker.")
    ] = None,
    only: Annotated[str | None, typer.Option(help=_ONLY)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the load and of the schedule.")] = 0,
    rate: Annotated[float | None, typer.Option(min=1.0, help="Requests a second (default 15).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Run in this new folder and leave it.")] = None,
    catalogue: Annotated[bool, typer.Option("--list", help="Only say which failpoints there are.")] = False,
) -> None:
    """Kill the processes of a stack of its own under load, and compare what is left with what should be.

    Exit code 1 where anything differs or does not come back in time.
    """
    from infra.chaos.campaign import Campaign
    from infra.chaos.plan import PARTS, Plan
    from infra.chaos.plan import quick as shortest
    from infra.chaos.points import named
    from infra.chaos.report import show, write
    from infra.control import StackError
    from infra.local.install import InstallError
    from infra.settings import SettingsError
    from streams.failpoints import CATALOGUE
    from streams.kafka import BrokerAway

    if catalogue:
        for name, place in CATALOGUE.items():
            out.print(f"{name:36} {place.kind.value:12} {place.what}", highlight=False, soft_wrap=True)
        return
    with reported(StackError, InstallError, BrokerAway):
        places = named(points) if points is not None else ()
        plan = shortest(seed, places) if quick else Plan(seed=seed, points=places)
        given = {"kills": kills, "hits": hits, "rate": rate}
        plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
        if only is not None:
            parts = tuple(part.strip() for part in only.split(","))
            if unknown := [part for part in parts if part not in PARTS]:
                raise SettingsError(f"--only: {unknown[0]!r} is unknown: must be one of {', '.join(PARTS)}")
            if places and "failpoints" not in parts:
                raise SettingsError(f"--points names failpoints, and --only {only} leaves them out")
            plan = replace(plan, parts=parts)
        # Everything that was started is stopped, also by who began this in the background, where shells ignore Ctrl-C.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        with tempfile.TemporaryDirectory(prefix="freshet-chaos-") as temporary:
            tell = lambda words: out.print(words, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
            report = Campaign(plan, keep or Path(temporary), tell).run()
    show(report, out)
    if json is not None:
        write(report, json)
    if not report.ok:
        raise typer.Exit(1)
