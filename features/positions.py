"""How far the pusher has come, kept in one small file."""

from pathlib import Path

import msgspec

from streams.failpoints import hit


class Position(msgspec.Struct, frozen=True):
    """Next offsets of one partition: rows before `online` are in the online store, those before `history` in parts.

    Reading resumes at `history`, which is never ahead of `online`.
    """

    online: int = 0
    history: int = 0


class Positions:
    """Positions by partition in the JSON file `path`, replaced by one rename at every `save`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[int, Position] = {}
        if path.exists():
            self._known = msgspec.json.decode(path.read_bytes(), type=dict[int, Position])

    def __getitem__(self, partition: int) -> Position:
        return self._known.get(partition, Position())

    def save(self, changed: dict[int, Position]) -> None:
        """Stores the changed positions; a kill in between leaves the old file."""
        self._known |= changed
        new = self._path.with_name(self._path.name + ".new")
        new.write_bytes(msgspec.json.encode(self._known))
        hit("features.position-written")
        new.replace(self._path)
