"""The join written on Faust's agents and Tables, the plain way.

    PEER_BROKER=host:port PEER_HEALTH=FILE PEER_FOLDER=DIR PEER_APP=NAME PEER_NEGATIVES=1 \\
        python -m faust -A tests.benchmarks.peers.faust_join -L uvloop worker -l info --without-web

A Table keeps each request's impression until its window is over, another which of its items was clicked, a third the
clicks that overtook their impressions; Faust writes all to changelog topics and to RocksDB. A click is an example at
once. With PEER_NEGATIVES=1 the items without a click are examples at the window's end, as in freshet's join; without it
they are not sent, which costs least. Windows' ends are kept in memory only, records are decoded by msgspec, nothing is
deduplicated, no features are counted, delivery is at least once: all of it in favour of this peer.
"""

import os
from collections import deque
from pathlib import Path
from typing import Any

import faust

from streams.health import Health
from streams.records import SCHEMA_VERSION, Example, Label, LabelState
from streams.topics import EVENTS, EXAMPLES, IMPRESSIONS

WINDOW_MS = 10_000
NEGATIVES = os.environ.get("PEER_NEGATIVES") == "1"

app = faust.App(
    os.environ["PEER_APP"],
    broker=f"aiokafka://{os.environ['PEER_BROKER']}",
    store="rocksdb://?driver=rocksdict",
    datadir=os.environ["PEER_FOLDER"],
    topic_partitions=2,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
)
impressions = app.topic(IMPRESSIONS.name, key_serializer="raw", value_serializer="raw")
events = app.topic(EVENTS.name, key_serializer="raw", value_serializer="raw")
examples = app.topic(f"{os.environ['PEER_APP']}-examples", key_serializer="raw", value_serializer="raw", partitions=2)
as_bytes: Any = faust.Schema(key_type=str, value_type=bytes, key_serializer="json", value_serializer="raw")
requests = app.Table("requests", schema=as_bytes, partitions=2)
early = app.Table("early", schema=as_bytes, partitions=2)
clicked = app.Table("clicked", key_type=str, value_type=str, partitions=2)
health = Health(Path(os.environ["PEER_HEALTH"]))
handled = {"impressions": 0, "actions": 0, "examples": 0}
ends: dict[int, deque[tuple[int, str]]] = {}


async def send(user: str, shown: Any, k: int, label: float) -> None:
    """One example."""
    item = shown.items[k]
    example = Example(
        v=SCHEMA_VERSION,
        example_id=f"{shown.request_id}/{item.position}",
        revision=0,
        ts=shown.ts,
        user=user,
        item=item.item,
        labels={"click": Label(LabelState.OBSERVED, label)},
        request_id=shown.request_id,
        position=item.position,
        propensity=item.propensity,
        item_features=item.features,
    )
    handled["examples"] += 1
    await examples.send(key=user.encode(), value=EXAMPLES.codec.encode(example))


async def found(shown: Any, item: str) -> None:
    """A click on an item of an impression that is there."""
    k = next((k for k, one in enumerate(shown.items) if one.item == item), None)
    if k is not None:
        clicked[shown.request_id] = item
        await send(shown.user, shown, k, 1.0)


@app.agent(impressions)
async def hold(stream: Any) -> None:
    """Keeps what was shown; closes the windows that are over by the newest impression's time."""
    async for event in stream.events():
        shown = IMPRESSIONS.codec.decode(event.value)
        requests[shown.request_id] = event.value
        overtook = early.pop(shown.request_id, None)
        if overtook is not None:
            await found(shown, EVENTS.codec.decode(overtook).item)
        waiting = ends.setdefault(event.message.partition, deque())
        waiting.append((shown.ts + WINDOW_MS, shown.request_id))
        while waiting and waiting[0][0] < shown.ts:
            request = waiting.popleft()[1]
            old, item = IMPRESSIONS.codec.decode(requests.pop(request)), clicked.pop(request, None)
            if NEGATIVES:
                for k, one in enumerate(old.items):
                    if one.item != item:
                        await send(old.user, old, k, 0.0)
        handled["impressions"] += 1


@app.agent(events)
async def join(stream: Any) -> None:
    """Joins a click with its impression, or keeps it until that comes."""
    async for event in stream.events():
        action = EVENTS.codec.decode(event.value)
        held = requests.get(action.request_id)
        if held is not None:
            await found(IMPRESSIONS.codec.decode(held), action.item)
        else:
            early[action.request_id] = event.value
        handled["actions"] += 1


@app.timer(0.5)  # type: ignore[untyped-decorator, unused-ignore]
async def report() -> None:
    """Says how far it is."""
    health.report(**handled)
