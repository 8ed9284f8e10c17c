"""Parquet files that somebody names: what is wrong with one is said of the file."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from online_learning.studies.study import StudyError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


def open_parquet(path: Path, columns: Sequence[str]) -> "ParquetFile":
    """The file at `path`; raises StudyError where there is none, it is of another format, or it lacks one of `columns`.

    The columns can then be read by `read(columns)`.
    """
    # pyarrow takes its time to load.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except OSError as error:
        # Arrow's own words name the path again, and its source.
        raise StudyError(f"{path}: {os.strerror(error.errno) if error.errno else error}") from error
    except pa.ArrowInvalid as error:
        raise StudyError(f"{path} is no parquet file") from error
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise StudyError(f"{path} has no column {', '.join(missing)}, but {', '.join(file.schema_arrow.names)}")
    return file
