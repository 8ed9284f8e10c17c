"""What the streams package can be told."""

import enum
from typing import Annotated, Final

from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Address = Annotated[str, Meta(pattern=r"^([^\s/,:]+:\d{1,5})?$", description='"host:port", or empty')]
Addresses = Annotated[
    str,
    Meta(
        pattern=r"^([^\s/,:]+:\d{1,5}(,[^\s/,:]+:\d{1,5})*)?$",
        description='"host:port", several with commas between them, or empty',
    ),
]


MOST_PARTITIONS: Final = 200
"""What every answer can say of how much of `examples` it knows: one number a partition, in one page of memory."""


class KafkaSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Kafka is and how its topics are laid out.

    An empty `bootstrap` means the local stack's own broker. `partitions` is the shared count of all user-keyed topics.
    """

    bootstrap: Addresses = ""
    partitions: Annotated[int, Meta(ge=1, le=MOST_PARTITIONS)] = 2
    item_partitions: Count = 2
    replication: Count = 1
    retention_hours: Positive = 24.0 * 30


class Target(enum.StrEnum):
    """What a task is about."""

    BINARY = "binary"
    """Whether it happens: labels are 0 or 1, and what is predicted is a probability."""
    VALUE = "value"
    """How much of it: the label is the event's own value, and what is predicted is in its units (seconds of dwell)."""


MOST_VALUE: Final = 1e12
"""Values of a value task lie in [0, MOST_VALUE]: squares of them still add up exactly enough in 64 bits."""


class LabelRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which actions make which label: an action of `kind` labels `task` 1 where its value is at least `at_least`
    (or always, without it) and 0 below. Of a value task its value is the label, and there is no `at_least`."""

    task: str
    kind: str
    at_least: float | None = None


class TaskSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task and what it predicts.

    With `shown_is_negative`, an item shown without such an action by the window's end is a 0. A value task has none:
    nobody knows how long who did not come would have stayed, so that label is censored.
    """

    name: str
    target: Target = Target.BINARY
    shown_is_negative: bool = False

    def __post_init__(self) -> None:
        if self.shown_is_negative and self.is_value:
            raise ValueError(
                '`shown_is_negative` == true, must be false or left out: with `target` "value" silence is no 0'
            )

    @property
    def is_value(self) -> bool:
        """Whether the label is a value, and not 0 or 1."""
        return self.target is Target.VALUE


class JoinSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Event-time rules of the join.

    `window_s`: how long after its impression an action still counts in time. `lateness_s`: how far the watermark stays
    behind the newest event. `horizon_s`: how long event ids are remembered for deduplication and how long after the
    window's end a late action still revises its example. `idle_s`: silence after which an input counts as idle.
    `negative_rate`: the share of negatives that is kept; at least 1 in 20, which is the most that one example weighs.
    `future_s`: how far ahead of the wall clock a time may lie.
    `max_held`: how many impressions a partition remembers on disk; beyond it the oldest are closed and forgotten early:
    later actions on them count as organic, and a copy of one counts again.
    """

    window_s: Positive = 30.0
    lateness_s: Annotated[float, Meta(ge=0)] = 2.0
    horizon_s: Positive = 3600.0
    idle_s: Positive = 1.0
    negative_rate: Annotated[float, Meta(ge=0.05, le=1)] = 1.0
    future_s: Positive = 3600.0
    max_held: Count = 20_000_000

    @property
    def window_ms(self) -> int:
        """`window_s` in ms, as events count it."""
        return round(1_000 * self.window_s)

    @property
    def lateness_ms(self) -> int:
        """`lateness_s` in ms."""
        return round(1_000 * self.lateness_s)

    @property
    def horizon_ms(self) -> int:
        """`horizon_s` in ms."""
        return round(1_000 * self.horizon_s)

    @property
    def future_ms(self) -> int:
        """`future_s` in ms."""
        return round(1_000 * self.future_s)


class StateSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the worker's state is. `memory_mb`: how much of it one partition of a stage holds in memory, half as it
    works with it, half in the buffers of the copy on disk under the state folder. What lasts is Kafka's changelog."""

    memory_mb: Positive = 64.0

    @property
    def memory_bytes(self) -> int:
        """The bound in bytes."""
        return int(self.memory_mb * 2**20)


MOST_RECORD_BYTES: Final = 4 * 2**20
"""An example carries two contexts and more, and must pass the producers' limit of 16 MiB."""


class StreamsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of topics, intake, join, aggregates and their state."""

    kafka: KafkaSettings = KafkaSettings()
    join: JoinSettings = JoinSettings()
    state: StateSettings = StateSettings()
    tasks: tuple[TaskSettings, ...] = (
        TaskSettings(name="click", shown_is_negative=True),
        TaskSettings(name="rating"),
    )
    labels: tuple[LabelRule, ...] = (
        LabelRule(task="click", kind="click"),
        LabelRule(task="click", kind="like"),
        LabelRule(task="click", kind="purchase"),
        LabelRule(task="rating", kind="rating", at_least=4.0),
    )
    max_record_bytes: Annotated[int, Meta(ge=1, le=MOST_RECORD_BYTES)] = 1_000_000
    state_dir: str = ""

    def __post_init__(self) -> None:
        known = {task.name for task in self.tasks}
        if len(known) < len(self.tasks) or not all(known):
            names = [task.name for task in self.tasks]
            raise ValueError(f"`tasks` == {names}, must have names that differ and are not empty")
        values = {task.name for task in self.tasks if task.is_value}
        for k, rule in enumerate(self.labels):
            if rule.task not in known:
                allowed = ", ".join(sorted(known))
                raise ValueError(f"`labels[{k}].task` == {rule.task!r}, must be one of: {allowed}")
            if rule.at_least is not None and rule.task in values:
                raise ValueError(
                    f"`labels[{k}].at_least` == {rule.at_least}, must be left out: `{rule.task}` is a value task, "
                    "whose label is the value itself"
                )
