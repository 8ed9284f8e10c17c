"""What the campaign asks the broker itself."""

from collections.abc import Mapping
from typing import Final

from kafka.errors import KafkaError

from streams.kafka import assign, consumer
from streams.settings import KafkaSettings
from streams.topics import EXAMPLES

_WAIT_S: Final = 60.0


class ExampleEnds:
    """The ends of `examples` per partition, or the last that were known where the broker is away."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._reader = consumer(settings, client_id="freshet-chaos-ends", committed=False, wait_s=_WAIT_S)
        self._partitions = assign(self._reader, [EXAMPLES.name], wait_s=_WAIT_S)
        self._known: dict[int, int] = {p.partition: 0 for p in self._partitions}

    def now(self) -> Mapping[int, int]:
        """Asks; returns what it knew before where nobody answers within a second."""
        try:
            found = self._reader.end_offsets(self._partitions, timeout_ms=1_000)
            self._known = {p.partition: end for p, end in found.items()}
        except (KafkaError, TypeError):
            pass
        return self._known

    def close(self) -> None:
        """Ends the connection."""
        self._reader.close()
