"""Bytes to records and back, by the encoding that the topic declares."""

import enum
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Encoding(enum.StrEnum):
    """`json` where outsiders write or read; `msgpack` where only freshet does."""

    JSON = "json"
    MSGPACK = "msgpack"


class Unreadable(ValueError):
    """A record's bytes are not what its topic promises; the message says where and why."""


class Codec(Generic[T]):
    """Encodes and decodes one record type (or union of types, tagged by their fields)."""

    def __init__(self, record: type[T], encoding: Encoding) -> None:
        self.record, self.encoding = record, encoding
        text = encoding is Encoding.JSON
        self._encode: Callable[[T], bytes] = (msgspec.json.Encoder() if text else msgspec.msgpack.Encoder()).encode
        self._decode: Callable[[bytes], T] = (
            msgspec.json.Decoder(record).decode if text else msgspec.msgpack.Decoder(record).decode
        )

    def encode(self, record: T) -> bytes:
        return self._encode(record)

    def decode(self, data: bytes) -> T:
        """Raises Unreadable with the path of the first field that is wrong."""
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(str(error)) from error
