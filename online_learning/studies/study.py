"""What an offline study is: a question, the settings that it compares, and how one point of it is measured.

A point is one setting on one group (a data set, a protocol) under one seed: the unit that is measured at once, written
down, and not measured again.
"""

import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from online_learning.studies.summary import Summary


class StudyError(Exception):
    """A study that cannot be run as asked; the message says what to do."""


class Point(msgspec.Struct, frozen=True, order=True):
    """One setting of a group under a seed."""

    group: str
    setting: str
    seed: int

    def matches(self, only: Sequence[str]) -> bool:
        """Whether a pattern names it: `group`, `setting` or `group/setting`, `*` for anything; no pattern names all."""
        names = (self.group, self.setting, f"{self.group}/{self.setting}")
        return not only or any(fnmatch.fnmatchcase(name, pattern) for pattern in only for name in names)


class Measurement(msgspec.Struct, frozen=True):
    """One value of one metric at one point. `x`: its place on the picture's axis (None: beside each other, by name)."""

    group: str
    setting: str
    seed: int
    metric: str
    value: float
    x: float | None = None

    @property
    def point(self) -> Point:
        return Point(self.group, self.setting, self.seed)


class Study(ABC):
    """A study; the class attributes are what its table and picture say about it.

    `baseline`: the setting that all others of a group are compared with, seed by seed ("": none is). `metrics`: those
    that are reported, in order, the first on the picture (empty: all that were measured, as they came). `plain`: those
    among them that describe a setting and are compared with nothing. `needs`: the folders of the data that must be
    there. `options`: what a study can be asked beyond that, with its defaults; the command line takes each field as
    `--field VALUE`, and they belong into `sizes`. `notes`: what must be said wherever a figure of it is quoted.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    question: ClassVar[str]
    seeds: ClassVar[tuple[int, ...]] = (0, 1, 2, 3, 4)
    baseline: ClassVar[str] = ""
    metrics: ClassVar[tuple[str, ...]] = ()
    plain: ClassVar[tuple[str, ...]] = ()
    differences: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    options: msgspec.Struct | None = None
    notes: ClassVar[tuple[str, ...]] = ()
    x_label: ClassVar[str] = ""
    x_log: ClassVar[bool] = False
    digits: ClassVar[int] = 4

    @abstractmethod
    def points(self, quick: bool, seeds: Sequence[int]) -> list[Point]:
        """All points in the order in which they are measured. `quick`: few and small, to see that it runs."""

    @abstractmethod
    def measure(self, point: Point, data: Path, quick: bool) -> list[Measurement]:
        """What was measured at a point; the same whenever it is called again. `data` is the folder of data sets."""

    def sizes(self, quick: bool) -> Mapping[str, str]:
        """What a figure depends on besides data, settings and seed: points of other sizes do not go into one table."""
        return {}

    def findings(self, summary: "Summary") -> list[str]:
        """Sentences that follow from the figures; they stand above the table."""
        return []

    def draw(self, figure: "Figure", summary: "Summary") -> None:
        """Draws the picture: the first metric with its intervals, a panel for each group."""
        from online_learning.studies.picture import panels

        panels(figure, self, summary)

    def configure(self, given: Mapping[str, str]) -> None:
        """Sets options by name from text; raises StudyError where there is no such option or it cannot be that."""
        known = self.options.__struct_fields__ if self.options is not None else ()
        for name in given:
            if name not in known:
                told = ", ".join(f"--{one.replace('_', '-')}" for one in known)
                raise StudyError(
                    f"`{self.name}` has no option --{name.replace('_', '-')}" + (f", but {told}" if told else "")
                )
        if self.options is not None and given:
            try:
                self.options = msgspec.convert(
                    {**msgspec.structs.asdict(self.options), **given}, type(self.options), strict=False
                )
            except msgspec.ValidationError as error:
                raise StudyError(f"`{self.name}`: {error}") from error

    def require(self, data: Path) -> None:
        """Raises StudyError naming the first folder of the data that is missing."""
        for folder in self.needs:
            if not (data / folder).is_dir():
                raise StudyError(
                    f"`{self.name}` needs the data set `{folder}`, and {data / folder} is no folder: "
                    "name the folder of the data sets with --data or FRESHET_DATA"
                )
