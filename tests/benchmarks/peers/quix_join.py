"""The join written on Quix Streams' stateful dataframe: `python quix_join.py BROKER HEALTH_FILE STATE_FOLDER`.

Both topics are concatenated; the state of a user (RocksDB with a changelog topic) keeps the impression of each request
and each click that overtook its impression; a click that finds its own becomes an example. Nothing is sent at windows'
ends and no state is dropped, which costs least; delivery is at least once. Stands alone: it runs in an environment of
its own, since Quix Streams' pins need not be freshet's.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from quixstreams import Application, State  # type: ignore[import-not-found, unused-ignore]


def main() -> None:
    """Runs until it is killed."""
    broker, health, folder = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    handled = {"impressions": 0, "actions": 0, "examples": 0}

    def tell() -> None:
        while True:
            time.sleep(0.25)
            if not any(handled.values()):
                continue
            word = {"pid": os.getpid(), "at_ms": time.time_ns() // 1_000_000, "values": handled}
            new = health.with_name(health.name + ".new")
            new.write_text(json.dumps(word))
            new.replace(health)

    def example(click: dict[str, Any], items: list[str]) -> list[dict[str, Any]]:
        made = [{**click, "position": k, "label": 1.0} for k, item in enumerate(items) if item == click["item"]]
        handled["examples"] += len(made)
        return made

    def join(value: dict[str, Any], state: State) -> list[dict[str, Any]]:
        request = value["request_id"]
        if "items" in value:
            handled["impressions"] += 1
            state.set(request, value["items"])
            click = state.get("early/" + request)
            if click is None:
                return []
            state.delete("early/" + request)
            return example(click, value["items"])
        handled["actions"] += 1
        items = state.get(request)
        if items is None:
            state.set("early/" + request, value)
            return []
        return example(value, items)

    threading.Thread(target=tell, daemon=True).start()
    app = Application(
        broker_address=broker,
        consumer_group="peer-quix",
        state_dir=folder,
        auto_offset_reset="earliest",
        loglevel="INFO",
    )
    shown = app.dataframe(app.topic("peer-impressions", value_deserializer="json"))
    acted = app.dataframe(app.topic("events", value_deserializer="json"))
    joined = shown.concat(acted).apply(join, stateful=True, expand=True)
    joined.to_topic(app.topic("peer-quix-examples", value_serializer="json"))
    app.run()


if __name__ == "__main__":
    main()
