"""`freshet demo`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from infra import settings as settings_module
from infra.console import out, reported

_DATA = Path("../shared/data")


def demo(
    data: Annotated[
        Path, typer.Option(envvar="FRESHET_DATA", help="The folder of real data sets, where there is one.")
    ] = _DATA,
    state: Annotated[Path | None, typer.Option("--state", help="Its state folder (erased first).")] = None,
    seconds: Annotated[float, typer.Option(min=10.0, help="How long the world is simulated.")] = 90.0,
    probes: Annotated[int, typer.Option(min=1, help="Freshness probes.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated world.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
) -> None:
    """Run the whole loop on real servers, print what it measured, and leave nothing running."""
    from infra.control import StackError
    from infra.demo.measured import fill
    from infra.demo.tour import Plan, run
    from infra.figures import Options, Report
    from infra.local.install import InstallError
    from serving.probe import NothingToMeasure
    from streams.kafka import BrokerAway

    began_s = time.monotonic()
    plan = Plan(seed=seed, seconds=seconds, probes=probes)
    report = Report(
        "freshet demo",
        Options(json=json),
        packages=("torch", "numba", "feast", "faust-streaming"),
        sizes={"simulated_s": seconds, "requests_per_s": plan.rate, "probes": probes},
        seeds=(seed,),
        told=False,
    )
    with reported(StackError, InstallError, BrokerAway, NothingToMeasure):
        measured = run(data, state or default_folder(), plan, out)
    fill(report, measured)
    report.add("the whole demo", time.monotonic() - began_s, "s", at_most=360)
    report.finish()
    # Times and intervals depend on the machine and on chance; what must agree exactly must agree everywhere.
    if any(figure.met is False for figure in report.figures if figure.asked.startswith("=")):
        raise typer.Exit(1)


def default_folder() -> Path:
    """A folder beside the state folder of the settings, so that a stack of the user's own is left alone."""
    own = settings_module.load().state
    return own.with_name(f"{own.name}-demo")
