"""Records that no intake can read, one of each kind that it names a reason for."""

from streams.kafka import producer
from streams.settings import KafkaSettings
from streams.topics import EVENTS

RECORDS: tuple[bytes, ...] = (
    b"",
    b"not json",
    b"\xff\xfe\xfd",
    b"[]",
    b"null",
    b'{"ts": 1, "user": "u", "item": "i"}',
    b'{"ts": "now", "user": "u", "item": "i", "kind": "click"}',
    b'{"ts": -1, "user": "u", "item": "i", "kind": "click"}',
    b'{"ts": 99999999999999, "user": "u", "item": "i", "kind": "click"}',
    b'{"ts": 1, "user": null, "item": "i", "kind": "click"}',
    b'{"ts": 1, "user": "", "item": "i", "kind": "click"}',
    b'{"ts": 1, "user": "u", "item": "i", "kind": "click", "v": 99}',
)


def send(settings: KafkaSettings) -> int:
    """Sends them all and returns how many."""
    with producer(settings, client_id="demo-malformed") as sender:
        for record in RECORDS:
            sender.send_bytes(EVENTS.name, record)
        sender.flush(30.0)
    return len(RECORDS)
