"""Which clicks a study learns from and ranks: any file of the format, any dates."""

import zlib
from pathlib import Path

import msgspec

from online_learning.studies.next_click.clicks import Clicks, day_ms, read_clicks
from online_learning.studies.next_click.protocol import Window
from online_learning.studies.study import StudyError
from streams.decay import DAY_MS

FILE = "globo/clicks.parquet"
LEARNED_BEFORE_MS = 5 * DAY_MS


class ClickOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`file`: a parquet file of clicks ("": Globo's, in the folder of the data).

    `start`: the first day that is learned ("": five days before what is ranked; the longest half-life is a day).
    [`eval_from`, `eval_to`) is ranked ("": to the end), days or times in UTC. `every`: one in so many user sessions is
    ranked. `scorer`: a scorer of your own, `PATH:CLASS`, ranked beside the others.
    """

    file: str = ""
    start: str = ""
    eval_from: str = "2017-10-11"
    eval_to: str = ""
    every: int = 20
    scorer: str = ""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"`every` == {self.every}, must be >= 1")
        for name in ("start", "eval_from", "eval_to"):
            try:
                day_ms(getattr(self, name) or "2017-10-11")
            except ValueError as error:
                raise ValueError(f"`{name}` == {getattr(self, name)!r}, must be a day as 2017-10-11") from error

    @property
    def from_ms(self) -> int:
        """Where ranking starts."""
        return day_ms(self.eval_from)

    def check(self, data: Path) -> Path:
        """The file of clicks; raises StudyError where there is none."""
        path = Path(self.file) if self.file else data / FILE
        if not path.is_file():
            raise StudyError(
                f"there is no file of clicks {path}: name it with --file, or the data sets with --data or FRESHET_DATA"
            )
        return path

    def read(self, data: Path) -> tuple[Clicks, Window]:
        """The clicks, and what of them is learned and ranked; raises StudyError where nothing could be ranked, or the
        file is no file of clicks."""
        path = self.check(data)
        clicks = read_clicks(path)
        start_ms = day_ms(self.start) if self.start else self.from_ms - LEARNED_BEFORE_MS
        to_ms = day_ms(self.eval_to) if self.eval_to else int(clicks.ts_ms.max(initial=self.from_ms - 1)) + 1
        window = Window(start_ms=start_ms, from_ms=self.from_ms, to_ms=to_ms, every=self.every)
        learned, ranked = clicks.between(start_ms, window.from_ms), clicks.between(window.from_ms, to_ms)
        if not len(learned) or not len(ranked):
            raise StudyError(
                f"{path.name}: nothing to rank from {self.eval_from} to {self.eval_to or 'its end'} "
                f"after learning from {self.start or 'five days before'}"
            )
        return clicks, window

    def sizes(self) -> dict[str, str]:
        """What a figure depends on, with a file of one's own told by its name and content."""
        told = {
            "learned from": self.start or "five days before",
            "ranked": f"{self.eval_from} to {self.eval_to or 'the last click'}, every {self.every}th session",
        }
        if self.file:
            path = Path(self.file)
            told["file"] = f"{path.name} (crc32 {zlib.crc32(path.read_bytes()):08x})" if path.is_file() else path.name
        return told
