"""Runs the points of a study that are not done yet, and writes its table and picture."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from online_learning.studies.log import Done, PointLog
from online_learning.studies.study import Point, Study, StudyError
from online_learning.studies.summary import Summary
from online_learning.studies.table import markdown

Progress = Callable[[Point, int, int], None]
"""Told before a point is measured: the point, how many are done, and how many there are."""


class Outcome(msgspec.Struct, frozen=True):
    """What a run left: the summary of all points and the files."""

    summary: Summary
    measured: int
    kept: int
    log: Path
    table: Path
    picture: Path


def run(
    study: Study,
    data: Path,
    out: Path,
    *,
    about: Mapping[str, str],
    quick: bool = False,
    seeds: Sequence[int] = (),
    only: Sequence[str] = (),
    fresh: bool = False,
    progress: Progress = lambda point, done, of: None,
) -> Outcome:
    """Measures what is not in `out`/NAME.jsonl yet, then writes `out`/NAME.md and `out`/NAME.png of everything there.

    Args:
        study: The study.
        data: The folder of data sets.
        out: Where the files are and come.
        about: What the table's head says of machine, versions and command, by name.
        quick: Few and small points.
        seeds: Instead of the study's own.
        only: Patterns of the points to be measured, see `Point.matches`.
        fresh: Forget what is there.
        progress: Told before each point.

    Raises:
        StudyError: the data is missing or not what it must be, a pattern names no point, the file holds points of
            other sizes, or `out` cannot be written.
        OSError: files could not be read or written.
    """
    study.require(data)
    sizes = {**study.sizes(quick), **({"quick": "yes"} if quick else {})}
    log = PointLog(out / f"{study.name}.jsonl", sizes)
    if fresh:
        log.erase()
    known: dict[Point, Done] = {done.point: done for done in log.read()}
    kept = len(known)
    points = [point for point in study.points(quick, tuple(seeds) or study.seeds) if point.matches(only)]
    if not points:
        raise StudyError(f"no point of `{study.name}` is named by {', '.join(only) or 'these settings'}")
    log.prepare()
    for number, point in enumerate(points):
        if point in known:
            continue
        progress(point, number, len(points))
        start = time.perf_counter()
        measured = study.measure(point, data, quick)
        if not measured or any(one.point != point for one in measured):
            raise ValueError(f"`{study.name}` measured {measured} at {point}")
        known[point] = log.append(point, time.perf_counter() - start, measured)
    ordered = _ordered(study, quick, known)
    summary = Summary((one for done in ordered for one in done.measurements), study.baseline)
    spent_s = sum(done.seconds for done in ordered)
    head = {**about, "sizes": "; ".join(f"{k} {v}" for k, v in sizes.items()), "time spent": f"{spent_s:.0f} s"}
    table = out / f"{study.name}.md"
    table.write_text(markdown(study, summary, head), encoding="utf-8")
    picture = out / f"{study.name}.png"
    _save_picture(study, summary, picture)
    return Outcome(summary, len(known) - kept, kept, out / f"{study.name}.jsonl", table, picture)


def _ordered(study: Study, quick: bool, known: Mapping[Point, Done]) -> list[Done]:
    """In the order of the study's points, whatever order they were measured in."""
    seeds = sorted({point.seed for point in known})
    place = {point: number for number, point in enumerate(study.points(quick, seeds))}
    return [known[point] for point in sorted(known, key=lambda point: place.get(point, len(place)))]


def _save_picture(study: Study, summary: Summary, path: Path) -> None:
    # Not pyplot, which would keep the figure and look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * max(1, min(3, len(summary.groups))), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    study.draw(figure, summary)
    figure.savefig(path, dpi=130, metadata={"Software": ""})
