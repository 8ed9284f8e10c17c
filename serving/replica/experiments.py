"""The newest definition of every experiment, for serving on this host."""

import msgspec

from serving.shared.files import write_whole
from serving.shared.head import File, HeadWriter
from streams.records import Experiment

_ENCODER = msgspec.json.Encoder()


class Experiments:
    """Collects definitions by name and swaps their file when one has changed."""

    def __init__(self, head: HeadWriter) -> None:
        self._head = head
        self._known: dict[str, Experiment] = {}
        self._changed = True

    @property
    def definitions(self) -> list[Experiment]:
        """The newest of each, by name."""
        return sorted(self._known.values(), key=lambda definition: definition.name)

    def put(self, name: str, definition: Experiment | None) -> None:
        """Takes a definition; None ends the experiment."""
        if definition is None:
            self._known.pop(name, None)
        else:
            self._known[definition.name] = definition
        self._changed = True

    def flush(self) -> None:
        """Writes the file where something changed."""
        if self._changed:
            write_whole(self._head.next_path(File.EXPERIMENTS), _ENCODER.encode(self.definitions))
            self._head.advance(File.EXPERIMENTS)
            self._changed = False
