"""`freshet table`: what the embedding tables of a checkpoint hold and cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from infra import settings as settings_module
from infra.console import AsJson, Config, StateDir, out, print_json, reported
from infra.settings import Settings, SettingsError

if TYPE_CHECKING:
    from online_learning.table.snapshot import TableSnapshot
    from online_learning.table.stats import TableStats

app = typer.Typer(help="What the embedding tables hold and cost.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `stats` a command of its own as long as it is the only one."""


@app.command()
def stats(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="CHECKPOINTS_OR_STATE",
            help="A folder or URL of checkpoints, or a state folder (default: the settings' checkpoints).",
        ),
    ] = None,
    config: Config = None,
    state: StateDir = None,
    as_json: AsJson = False,
) -> None:
    """Rows, bytes a row, load, rows of each field and the chance of a hash collision, of the newest checkpoint."""
    from online_learning.checkpoint.checkpoint import CheckpointError
    from online_learning.table.export import TableFull

    with reported(CheckpointError, TableFull, OSError):
        settings = settings_module.load(config, state)
        tables = stats_at(location(where, settings))
        if as_json:
            print_json(tables)
            return
        for one in tables:
            out.print(stats_table(one, field_names(settings)))


def location(where: str | None, settings: Settings) -> str:
    """Where the checkpoints are: `where` itself, `checkpoints` in it if it is a state folder, or the settings' own."""
    if where is None:
        return settings.learning.trainer.checkpoint_dir
    inner = Path(where) / "checkpoints"
    return str(inner) if "://" not in where and inner.is_dir() else where


def stats_at(where: str) -> "list[TableStats]":
    """Statistics of every table of the newest intact checkpoint at a path or URL.

    Raises SettingsError where there is none, CheckpointError where none is intact.
    """
    from online_learning.checkpoint.store import CheckpointStore

    # To look must not make the folder.
    if "://" not in where and not Path(where).is_dir():
        raise SettingsError(f"there are no checkpoints at {where}: no such folder")
    checkpoint = CheckpointStore(where).load_newest()
    if checkpoint is None:
        raise SettingsError(f"there are no checkpoints at {where}")
    return [_stats_of(snapshot) for _, snapshot in sorted(checkpoint.tables.items())]


def _stats_of(snapshot: "TableSnapshot") -> "TableStats":
    from online_learning.table.settings import OptimizerKind, OptimizerSettings, TableSettings
    from online_learning.table.table import Table as EmbeddingTable

    meta = snapshot.meta
    rule = OptimizerSettings(kind=OptimizerKind(meta.optimizer))
    return EmbeddingTable.restore(TableSettings(name=meta.name, dim=meta.dim, optimizer=rule), snapshot).stats()


def field_names(settings: Settings) -> dict[int, str]:
    """Names of the key spaces by the settings' fields, and those of their towers."""
    from online_learning.models.fields import FieldEncoder
    from online_learning.models.scorers.two_tower import tower_space

    names = FieldEncoder(settings.learning.model).space_names()
    return names | {tower_space(space): f"{name}, its tower's" for space, name in names.items()}


def stats_table(stats: "TableStats", names: dict[int, str]) -> Table:
    """The statistics of one table for a terminal."""
    shown = Table("", title=f"table {stats.name}", title_justify="left")
    shown.add_column("", justify="right")
    shown.add_row("rows", f"{stats.rows:,}")
    for space, rows in sorted(stats.rows_by_space.items(), key=lambda pair: -pair[1]):
        shown.add_row(f"  of field {names.get(space, f'with key space {space}')}", f"{rows:,}")
    shown.add_row("tombstones", f"{stats.tombstones:,}")
    shown.add_row("unseen keys not admitted, by sightings", f"{stats.unadmitted:,}")
    shown.add_row("unseen keys refused by a full table", f"{stats.refused:,}")
    shown.add_row("not acknowledged by the update log", f"{stats.touched:,}")
    shown.add_row("bytes", f"{stats.total_bytes:,}")
    for part, size in stats.bytes_by_part.items():
        shown.add_row(f"  of {part}", f"{size:,}")
    shown.add_row("bytes a row", f"{stats.bytes_per_row:.1f}")
    shown.add_row("  over embedding and optimizer state", f"{stats.overhead_bytes_per_row:.1f}")
    shown.add_row("  the same with the index at its highest load", f"{stats.overhead_at_full_load:.1f}")
    shown.add_row("load of the index", f"{stats.load:.2f}")
    shown.add_row("lines looked at behind a key's first, mean (most)", f"{stats.probe_mean:.3f} ({stats.probe_max})")
    shown.add_row("chance that any two keys share their 64-bit hash, at most", f"{stats.collision_bound:.1e}")
    return shown
