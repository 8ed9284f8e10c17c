"""What drift detection says and keeps: as plain data, because importing river costs more than most processes do."""

from typing import Final

import msgspec

LOG_LOSS: Final = "log loss"


class Alarm(msgspec.Struct, frozen=True):
    """A learner's error of a task went up: its mean (capped) before and after, in nats; `at_ms` as handed in.

    `scene`: where, or None for all examples together. `error`: which error it is.
    """

    learner: str
    task: str
    at_ms: int
    before: float
    after: float
    scene: str | None = None
    error: str = LOG_LOSS


class WatchState(msgspec.Struct, frozen=True):
    """What is kept of one (learner, task, scene or all): the pickled detector, the alarm that stands, examples since
    its last rise.

    `last_ms` is when the newest alarm began, 0 before the first; `seen` the task's examples when the scene was seen
    last.
    """

    learner: str
    task: str
    detector: bytes
    alarm: Alarm | None
    quiet: int
    last_ms: int
    scene: str | None = None
    seen: int = 0
