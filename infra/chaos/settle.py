"""Coming to rest: after the load has ended, until nothing moves any more and everybody has everything."""

import time
from typing import Final

from infra.chaos.arena import Arena
from infra.lag import holdings
from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.checkpoint.store import CheckpointStore
from online_learning.state import log_position
from online_learning.updates.position import TABLE, stream_of
from serving.shared.mirror import Mirror
from streams.logs import end_sum
from streams.topics import ACTIONS, EXAMPLES, UPDATES

_REST_S: Final = 240.0
_STAGES: Final = "freshet-worker-stages"


def settle(arena: Arena, mirror: Mirror) -> Checkpoint:
    """Waits until the log of `examples` has ended, and a checkpoint and the replica hold all of it; returns that
    checkpoint. Raises Failed."""
    kafka = arena.settings.kafka
    join = arena.settings.streams.join
    # Windows end by silence: after this much of it nothing more can come from what was read, on a busy machine too.
    quiet_s = join.window_s + join.lateness_s + 2 * join.idle_s + 5.0

    def read_to_the_end() -> bool:
        return not any(lag.records for lag in holdings(kafka, 10.0).lags if lag.group == _STAGES)

    arena.wait(read_to_the_end, _REST_S, "the worker has read everything", "worker")
    topics = (ACTIONS, EXAMPLES)
    last, since_s = -1, time.monotonic()
    deadline_s = since_s + _REST_S

    def silent() -> bool:
        nonlocal last, since_s
        now = sum(end_sum(kafka, topic) for topic in topics)
        if now != last:
            last, since_s = now, time.monotonic()
        return time.monotonic() - since_s > quiet_s or time.monotonic() > deadline_s

    arena.wait(silent, _REST_S, "nothing is written to `examples` any more", "worker")
    found: list[Checkpoint] = []

    def everybody_has_it() -> bool:
        if arena.value("trainer", "lag") or arena.value("replica", "lag"):
            return False
        before = end_sum(kafka, UPDATES)
        try:
            checkpoint = CheckpointStore(arena.settings.learning.trainer.checkpoint_dir).load_newest()
        except CheckpointError:
            return False
        mirror.refresh()
        lineage = mirror.lineage()
        if checkpoint is None or end_sum(kafka, UPDATES) != before:
            return False
        at = log_position(checkpoint).of(stream_of(TABLE, 0))
        same = checkpoint.offsets.get(EXAMPLES.name) == lineage.learned and at.epoch == lineage.epoch
        # A checkpoint may be of a moment before its last frame was acknowledged, never of one before it was made.
        if same and 0 <= lineage.sequence - at.sequence <= 2:
            found[:] = [checkpoint]
            return True
        return False

    arena.wait(everybody_has_it, _REST_S, "a checkpoint and the replica hold everything", "trainer", "replica")
    return found[0]
