"""A join that runs without a worker."""

from pathlib import Path

from streams.join import Join
from streams.local_state import opened
from streams.records import Example
from streams.settings import StreamsSettings
from streams.topics import EXAMPLES

MEMORY_BYTES = 2**20
NOW_MS = 1_700_000_000_000


class Run:
    """A join with its copy on disk and its changelog, that can be killed and goes on from either."""

    def __init__(self, folder: Path, settings: StreamsSettings) -> None:
        self.folder, self.settings = folder, settings
        self.changelog: dict[bytes, bytes] = {}
        self.examples: list[Example] = []
        self.disk = opened(folder, MEMORY_BYTES)
        self.join = Join(settings, self.disk)

    def commit(self, impressions_idle_ms: int | None = None, actions_idle_ms: int | None = None) -> None:
        self.join.advance(impressions_idle_ms, actions_idle_ms)
        joined = self.join.drain(NOW_MS)
        for key, example in [*joined.closed.columns().entries(), *joined.examples]:
            self.examples.append(EXAMPLES.codec.decode(example or b""))
            assert key == self.examples[-1].user.encode()
        for key, value in joined.changes.items():
            self.changelog.pop(key, None)
            if value is not None:
                self.changelog[key] = value
        self.disk.apply(joined.changes, None)
        self.join.settle()

    def restart(self, anew: bool) -> None:
        assert dict(self.disk.entries()) == self.changelog
        self.disk.close()
        self.disk = opened(self.folder, MEMORY_BYTES, anew=anew)
        if anew:
            self.disk.apply(self.changelog, None)
        self.join = Join(self.settings, self.disk)
