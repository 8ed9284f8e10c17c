"""`freshet experiment`: offline studies on real data, each a table, a picture and its points."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table

from infra.console import err, out, reported
from infra.figures import machine
from infra.inputs import Data

_PACKAGES: Final = ("freshet", "numpy", "numba", "torch", "scipy")


def experiment(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The study's name; `--list` says which there are.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the studies.")] = False,
    quick: Annotated[bool, typer.Option(help="Few and small points, to see that it runs.")] = False,
    seeds: Annotated[str | None, typer.Option(help="Instead of the study's own, as 0,1,2.")] = None,
    data: Data = Path("../shared/data"),
    folder: Annotated[Path, typer.Option("--out", help="Where points, table and picture come.")] = Path("studies"),
    fresh: Annotated[bool, typer.Option(help="Measure anew what is there.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Only these points: GROUP, SETTING or GROUP/SETTING.")] = None,
) -> None:
    """Run an offline study on real data; what was measured before is not measured again.

    A study's own options are given as --NAME VALUE; `--list` says them. Exit code 2 where it cannot be run as asked.
    """
    from online_learning.studies.registry import find
    from online_learning.studies.study import StudyError

    with reported(StudyError, OSError, code=2):
        if listed or name is None:
            out.print(_studies())
            return
        from online_learning.studies.runner import run

        study = find(name)
        study.configure(options_of(context.args))
        with out.status(name) as status:
            outcome = run(
                study,
                data,
                folder,
                about=_about(),
                quick=quick,
                seeds=seeds_of(seeds),
                only=only or (),
                fresh=fresh,
                progress=lambda point, done, of: status.update(
                    f"{name}: {point.group}, {point.setting}, seed {point.seed} ({done} of {of} done)"
                ),
            )
        out.print(outcome.table.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
        err.print(
            f"{outcome.measured} points measured, {outcome.kept} kept; written: {outcome.log}, {outcome.table}, "
            f"{outcome.picture}",
            highlight=False,
            soft_wrap=True,
        )


def seeds_of(text: str | None) -> tuple[int, ...]:
    """The seeds of `--seeds`, none where it was not given; raises StudyError where one is no whole number."""
    from online_learning.studies.study import StudyError

    if text is None:
        return ()
    try:
        return tuple(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise StudyError(f"--seeds: {text!r} must be whole numbers as 0,1,2") from None


def options_of(words: Sequence[str]) -> dict[str, str]:
    """A study's own options: `--eval-from 2017-10-11` or `--eval-from=2017-10-11` as eval_from -> 2017-10-11."""
    from online_learning.studies.study import StudyError

    found, rest = {}, iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            raise StudyError(f"{word!r} is no option")
        given = value if equals else next(rest, None)
        if given is None:
            raise StudyError(f"{option} needs a value")
        found[option[2:].replace("-", "_")] = given
    return found


def _studies() -> Table:
    from online_learning.studies.registry import STUDIES, find

    table = Table()
    for heading in ("name", "question", "its own options"):
        table.add_column(heading)
    for name in sorted(STUDIES):
        study = find(name)
        own = study.options.__struct_fields__ if study.options is not None else ()
        table.add_row(name, study.question, " ".join(f"--{one.replace('_', '-')}" for one in own))
    return table


def _about() -> dict[str, str]:
    place = machine(_PACKAGES)
    return {
        "machine": f"{place.cpu}, {place.cores} cores, {place.memory_bytes / 2**30:.0f} GiB, {place.system}",
        "versions": f"Python {place.python}, " + ", ".join(f"{name} {value}" for name, value in place.packages.items()),
        "command": _command(),
    }


def _command() -> str:
    """As it was given, but for the folders, which are this machine's own."""
    kept, words = [], iter(sys.argv[1:])
    for word in words:
        if word in ("--data", "--out"):
            next(words, None)
        elif word in ("--file", "--scorer"):
            kept += [word, Path(next(words, "")).name]
        elif not word.startswith(("--data=", "--out=")):
            kept.append(word)
    return f"`freshet {shlex.join(kept)}`"
