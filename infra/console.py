"""What every command shares: its common options, where it prints, and how a foreseen failure is told."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from infra import settings as settings_module
from infra.settings import Settings, SettingsError

# Nobody's terminal is narrow where there is none: tables are not cut for a file or a pipe.
PIPE_COLUMNS = 140

out = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
err = Console(stderr=True)

Config = Annotated[Path | None, typer.Option("--config", help="The settings file (default: ./freshet.toml).")]
StateDir = Annotated[Path | None, typer.Option("--state", help="The state folder (default: `state_dir`).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def reported(*foreseen: type[Exception], code: int = 1) -> Iterator[None]:
    """Wrong settings, `foreseen` failures and what a light install lacks become one message and exit code `code`; 130
    after Ctrl-C."""
    told: tuple[type[Exception], ...] = (SettingsError, *foreseen)
    try:
        yield
    except told as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from error
    except ModuleNotFoundError as error:
        needed = f"this command needs `{error.name}`, which is not installed: pip install 'freshet[local]'"
        err.print(needed, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def actual(settings: Settings) -> Settings:
    """The settings with the actual addresses where a stack runs in their state folder."""
    from infra.local.state import State
    from infra.status import running

    if running(State(settings.state)) is None:
        return settings
    return settings_module.resolved(settings.state)


def print_json(value: Any) -> None:
    """Prints one JSON document for other programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value)).decode() + "\n")
