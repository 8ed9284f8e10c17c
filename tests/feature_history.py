"""What is in the offline history of users' features, also while a pusher is at work on its parts."""

from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq


def user_history(repo_dir: str) -> list[tuple[str, int]]:
    """(user, version) of every row, sorted."""
    while True:
        # A part that is erased while we look: what it held of others is in the other parts, so all are read again.
        with suppress(FileNotFoundError):
            return sorted(row for part in _parts(repo_dir) for row in _rows(part))


def _parts(repo_dir: str) -> list[Path]:
    return list((Path(repo_dir) / "history" / "user_stats").glob("*.parquet"))


def _rows(part: Path) -> list[tuple[str, int]]:
    columns = pq.read_table(part).to_pydict()
    return list(zip(columns["user"], columns["version"], strict=True))
