"""`freshet backfill`: train on a stored log into a checkpoint that the live trainer goes on from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from infra.console import AsJson, Config, StateDir, err, out, print_json, reported
from infra.inputs import running_settings, stopped_by_signals
from infra.settings import Settings, SettingsError

if TYPE_CHECKING:
    from online_learning.backfill import BackfillReport

Files = Annotated[
    list[Path] | None,
    typer.Argument(help="Parquet or JSON lines of examples, in their order.", exists=True, dir_okay=False),
]
To = Annotated[
    str | None, typer.Option(help="An empty folder or URL for its checkpoints (default: the trainer's own).")
]


def backfill(
    files: Files = None, to: To = None, config: Config = None, state: StateDir = None, as_json: AsJson = False
) -> None:
    """Train on stored examples, then on the topic up to its end; the live trainer goes on with the very next one."""
    from online_learning.backfill import BackfillError, run
    from online_learning.checkpoint.checkpoint import CheckpointError
    from online_learning.stored_examples import BadExamples
    from streams.kafka import BrokerAway

    with reported(BackfillError, BadExamples, CheckpointError, BrokerAway, OSError), stopped_by_signals() as stop:
        settings = running_settings(config, state)
        place = settings.learning.trainer.checkpoint_dir if to is None else _absolute(to)
        _check_idle(settings, place)
        trainer = msgspec.structs.replace(settings.learning.trainer, checkpoint_dir=place)
        with err.status("") as line:

            def tell(report: "BackfillReport") -> None:
                speed = report.examples / max(report.seconds, 1e-9)
                line.update(f"{report.from_files:,} of the files, {report.from_topic:,} of the topic; {speed:,.0f}/s")

            report = run(msgspec.structs.replace(settings.learning, trainer=trainer), files or (), stop, tell)
        if as_json:
            print_json(report)
        else:
            out.print(
                f"learned {report.learned:,} examples ({report.from_files:,} read from files, {report.from_topic:,} "
                f"from the topic) into {report.rows:,} rows in {report.seconds:.1f} s: checkpoint {report.checkpoint} "
                f"in {place}",
                highlight=False,
                soft_wrap=True,
            )
        if not report.done:
            err.print("stopped: the same command goes on from here", highlight=False)
            raise typer.Exit(130)
        if to is not None and not as_json:
            out.print(
                f"to go live: set learning.trainer.checkpoint_dir = {place!r} and start the stack again", soft_wrap=True
            )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _check_idle(settings: Settings, place: str) -> None:
    """Raises SettingsError where a running trainer keeps its checkpoints at the same place."""
    from infra.local.state import State
    from infra.status import running

    status = running(State(settings.state))
    if status is None or place != settings.learning.trainer.checkpoint_dir:
        return
    if any(process.name == "trainer" and process.pid is not None for process in status.processes):
        raise SettingsError(
            f"the trainer that runs keeps its checkpoints in {place}: give another place with --to, or start without "
            "it (`freshet up --only kafka`)"
        )
