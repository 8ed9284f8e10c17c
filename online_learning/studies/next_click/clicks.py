"""A log of clicks as arrays in time order."""

import datetime as dt
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from online_learning.studies.datasets.parquet import open_parquet
from online_learning.studies.study import StudyError

Ints = NDArray[np.int64]


class Clicks(msgspec.Struct, frozen=True):
    """n clicks in time order: user, session, article and ts_ms, i64 [n] each."""

    user: Ints
    session: Ints
    article: Ints
    ts_ms: Ints

    def __len__(self) -> int:
        return len(self.ts_ms)

    def between(self, first_ms: int, end_ms: int) -> "Clicks":
        """Those with first_ms <= ts_ms < end_ms."""
        low, high = np.searchsorted(self.ts_ms, (first_ms, end_ms), side="left")
        return Clicks(self.user[low:high], self.session[low:high], self.article[low:high], self.ts_ms[low:high])


def read_clicks(path: Path) -> Clicks:
    """The clicks of a parquet file with the columns user_id, session_id, article_id and ts_ms (UTC).

    Clicks of one millisecond keep the file's order. Other columns are not read: `session_size` is known only after the
    session, and `referrer_type` belongs to the very click that is to be predicted.

    Raises StudyError where there is no such file, or its columns are not whole numbers.
    """
    names = ["user_id", "session_id", "article_id", "ts_ms"]
    table = open_parquet(path, names).read(names)
    for name in names:
        column = table[name]
        if column.null_count or not str(column.type).startswith(("int", "uint")):
            gaps = f" with {column.null_count} of {len(column)} missing" if column.null_count else ""
            raise StudyError(f"{path}: `{name}` is {column.type}{gaps}, must be whole numbers")
    columns = [table[name].to_numpy().astype(np.int64) for name in names]
    order = np.argsort(columns[3], kind="stable")
    return Clicks(*(column[order] for column in columns))


def day_ms(day: str) -> int:
    """The ms since 1970 of a date (or a date and time) in UTC, `2017-10-11` or `2017-10-11T06:00`."""
    return int(dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC).timestamp() * 1000)
