"""What cannot be read goes to the topic `dead-letters` with its bytes, origin and reason; nothing is dropped unsaid."""

import enum
import time
from typing import Final, Protocol

from kafka.future import Future

from streams.kafka import Producer
from streams.records import DeadLetter
from streams.topics import DEAD_LETTERS

# A dead letter must itself pass Kafka's default limit of 1 MiB: base64 makes 4 bytes of 3, the rest is for the text.
KEPT_BYTES: Final = 640 * 2**10
_KEPT_KEY_BYTES: Final = 16 * 2**10
_KEPT_TEXT: Final = 1_000


class Reason(enum.StrEnum):
    """Why a record was not taken."""

    EMPTY = "empty"
    BAD_UTF8 = "bad-utf8"
    NOT_JSON = "not-json"
    NOT_AN_OBJECT = "not-an-object"
    MISSING_FIELD = "missing-field"
    WRONG_TYPE = "wrong-type"
    WRONG_VERSION = "wrong-version"
    TOO_LARGE = "too-large"
    BAD_TIME = "bad-time"
    FUTURE_TIME = "future-time"
    BAD_VALUE = "bad-value"
    EMPTY_ID = "empty-id"
    UNREADABLE = "unreadable"
    TOO_LATE = "too-late"


class Origin(Protocol):
    """A record as any Kafka client hands it over (kafka-python's and aiokafka's ConsumerRecord both are one)."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


def dead_letter(record: Origin, reason: str, detail: str, now_ms: int) -> tuple[bytes, bytes]:
    """Key (`topic-partition`) and value of the dead letter of `record`; long bytes are cut and the detail says so."""
    key, value = record.key, record.value
    notes = [detail[:_KEPT_TEXT]]
    if value is not None and len(value) > KEPT_BYTES:
        notes.append(f"first {KEPT_BYTES} of {len(value)} bytes kept")
        value = value[:KEPT_BYTES]
    if key is not None and len(key) > _KEPT_KEY_BYTES:
        notes.append(f"first {_KEPT_KEY_BYTES} of {len(key)} key bytes kept")
        key = key[:_KEPT_KEY_BYTES]
    letter = DeadLetter(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        reason=str(reason),
        detail="; ".join(notes),
        at=now_ms,
        key=key,
        value=value,
    )
    return f"{record.topic}-{record.partition}".encode(), DEAD_LETTERS.codec.encode(letter)


class DeadLetters:
    """Sends dead letters with a producer and counts them."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self.count = 0

    def send(self, record: Origin, reason: str, detail: str) -> Future:
        """Sends `record` to the dead letters; raises as `Producer.send_bytes`."""
        key, value = dead_letter(record, reason, detail, time.time_ns() // 1_000_000)
        self.count += 1
        return self._producer.send_bytes(DEAD_LETTERS.name, value, key)
