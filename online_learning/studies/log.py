"""The points that are done, one JSON line each: what is in the file is never measured again."""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from online_learning.studies.study import Measurement, Point, StudyError


class Done(msgspec.Struct, frozen=True):
    """A measured point. `sizes`: those of the study when it was measured; `seconds`: what it took."""

    point: Point
    sizes: dict[str, str]
    seconds: float
    measurements: list[Measurement]


class PointLog:
    """Appends whole lines to a file; a line that a kill cut short is dropped when the file is read again."""

    def __init__(self, path: Path, sizes: dict[str, str]) -> None:
        self._path, self._sizes = path, sizes

    def read(self) -> list[Done]:
        """All points that are done, as they came.

        Raises:
            StudyError: a line is no point, or is of other sizes than the study has now.
        """
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        done = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                one = msgspec.json.decode(line, type=Done)
            except msgspec.MsgspecError as error:
                raise StudyError(f"{self._path}:{number}: {error}") from error
            if one.sizes != self._sizes:
                raise StudyError(
                    f"{self._path}:{number} was measured with {_told(one.sizes)}, not {_told(self._sizes)}: "
                    "start over with --fresh, or write elsewhere with --out"
                )
            done.append(one)
        return done

    def prepare(self) -> None:
        """Makes the folder and the file where they are not there: what cannot be written is known before the first
        point is measured. Raises StudyError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.open("ab").close()
        except OSError as error:
            raise StudyError(f"{self._path} cannot be written: {error.strerror}") from error

    def append(self, point: Point, seconds: float, measurements: Sequence[Measurement]) -> Done:
        """Writes a point down; it is on the disk when this returns."""
        done = Done(point, self._sizes, round(seconds, 3), list(measurements))
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(done) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return done

    def erase(self) -> None:
        """Forgets all points."""
        self._path.unlink(missing_ok=True)


def _told(sizes: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sizes.items()) or "no sizes"
