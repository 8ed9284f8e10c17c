"""Brings the local copy of a stage's state up to its changelog: by the tail, where the copy can be trusted.

A copy is trusted where it says up to where it is complete, where that was not long ago (Kafka keeps tombstones for a
day: a copy that missed one would keep what was deleted for ever), and where what the changelog holds from there on is
the same history: every start without any state begins a new incarnation, which each batch's `meta` names. All else is
thrown away and read anew from the changelog's beginning.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.failpoints import hit
from streams.local_state import LocalState, Position, opened
from streams.settings import KafkaSettings
from streams.topics import TOMBSTONES_MS

log = logging.getLogger(__name__)

META: Final = b"meta"
_MAX_AGE_MS: Final = TOMBSTONES_MS // 2
_CHUNK_RECORDS: Final = 5_000
_FETCH_BYTES: Final = 2 * 2**20


class StateUnreadable(RuntimeError):
    """A changelog holds state that this version of freshet cannot read; a worker must not go on without it."""


class Meta(msgspec.Struct, array_like=True):
    """The last record of every batch: the next offset of each input topic, and which history this is."""

    positions: dict[str, int]
    incarnation: int


class Restored(msgspec.Struct):
    """A state as of the changelog's end. `meta` is None where there was never any; `records` were read for it."""

    state: LocalState
    meta: Meta | None
    records: int
    from_copy: bool


class _OtherHistory(Exception):
    """The changelog is not the one that the copy is of."""


def reader(settings: KafkaSettings, client_id: str) -> AIOKafkaConsumer:
    """A consumer of committed records that is assigned by hand."""
    return AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        client_id=client_id,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
        request_timeout_ms=10_000,
    )


async def restore(
    consumer: AIOKafkaConsumer, changelog: TopicPartition, folder: Path, memory_bytes: int, now_ms: int, *, anew: bool
) -> Restored:
    """The state of `changelog`, in `folder`; `consumer` is started and reads committed records.

    `anew` throws the copy in `folder` away. Raises KafkaError, LocalStateError, StateUnreadable.
    """
    consumer.assign([changelog])
    end = (await consumer.end_offsets([changelog]))[changelog]
    begin = (await consumer.beginning_offsets([changelog]))[changelog]
    if not anew:
        state = opened(folder, memory_bytes)
        known = state.position
        if known is not None and begin <= known.offset < end and now_ms - known.at_ms < _MAX_AGE_MS:
            try:
                return await _read(consumer, changelog, state, known.offset, end, now_ms, _meta(state))
            except _OtherHistory:
                log.info("%s: the copy of %s is of another history", folder, changelog.topic)
            except BaseException:
                state.close()
                raise
        state.close()
    state = opened(folder, memory_bytes, anew=True)
    try:
        return await _read(consumer, changelog, state, begin, end, now_ms, None)
    except BaseException:
        state.close()
        raise


async def _read(
    consumer: AIOKafkaConsumer,
    changelog: TopicPartition,
    state: LocalState,
    start: int,
    end: int,
    now_ms: int,
    known: Meta | None,
) -> Restored:
    consumer.seek(changelog, start)
    hit("worker.copy-opened")
    changes: dict[bytes, bytes | None] = {}
    records, meta, at = 0, None, -1
    while await consumer.position(changelog) < end:
        batches = await consumer.getmany(changelog, timeout_ms=200)
        for record in batches.get(changelog, ()):
            records += 1
            changes[record.key] = record.value
            if record.key == META:
                meta, at = _decoded(record.value, changelog), record.offset
                if known is not None and meta.incarnation != known.incarnation:
                    raise _OtherHistory
        if len(changes) >= _CHUNK_RECORDS:
            # Without a position: what is cut off here is begun anew.
            state.apply(changes, None)
            changes = {}
            await asyncio.sleep(0)
    hit("worker.copy-read")
    if meta is None:
        if known is not None:
            raise _OtherHistory
        state.apply(changes, None)
    else:
        state.apply(changes, Position(at, now_ms))
    hit("worker.copy-caught-up")
    return Restored(state, meta, records, known is not None)


def _meta(state: LocalState) -> Meta:
    found = state.get(META)
    try:
        return msgspec.msgpack.decode(found or b"", type=Meta)
    except msgspec.DecodeError as error:
        raise _OtherHistory from error


def _decoded(value: bytes | None, changelog: TopicPartition) -> Meta:
    try:
        return msgspec.msgpack.decode(value or b"", type=Meta)
    except msgspec.DecodeError as error:
        raise StateUnreadable(
            f"{changelog.topic}-{changelog.partition} was written by another version of freshet: {error}"
        ) from error
