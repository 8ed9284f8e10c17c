"""Every record on every topic, in one place.

Times are event times in milliseconds since the epoch, UTC. Ids are strings. A record names its schema version `v`;
a reader takes the version before and the one after its own. Records that outsiders write or read are JSON objects;
those that only freshet reads are msgpack arrays, where a newer writer may append fields and an older one may lack them.
"""

import enum
from typing import Annotated, Any

from msgspec import Meta, Struct, field

SCHEMA_VERSION = 1

Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""What 64 bits with a sign hold: larger ones, which JSON knows and msgpack in part, could not travel on."""


# --- the open door: what producers in any language send -----------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened, as a producer tells it. Topic `events`, any key."""

    ts: int
    user: str
    item: str
    kind: str
    v: int = SCHEMA_VERSION
    value: float | None = None
    event_id: str | None = None
    request_id: str | None = None
    session: str | None = None
    scene: str = ""
    context: dict[str, Any] = field(default_factory=dict)


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest state of an item. Topic `items`, keyed by item; a null value deletes it."""

    item: str
    v: int = SCHEMA_VERSION
    ts: int = 0
    scene: str = ""
    available: bool = True
    attributes: dict[str, str | Integer | float | list[str]] = field(default_factory=dict)
    text: str = ""
    media: list[str] = field(default_factory=list)


class User(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest state of a user. Topic `users`, keyed by user; a null value drops the profile and the
    rows that were learned of the user; counts and history (answers, actions, examples) stay."""

    user: str
    v: int = SCHEMA_VERSION
    ts: int = 0
    attributes: dict[str, str | Integer | float | list[str]] = field(default_factory=dict)


# --- actions and impressions --------------------------------------------------------------------------------------


class Action(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A validated event, re-keyed by user. Topic `actions`.

    `event_id` is the producer's, or `topic-partition-offset` of the event. `extra` keeps the fields that this version
    does not know. `received_at` is the wall clock of the intake (ms), which bounds how far an action moves clocks and
    counts: a producer's clock may be ahead. What else depends on time depends on `ts`.
    """

    ts: int
    user: str
    item: str
    kind: str
    event_id: str
    received_at: int
    v: int = SCHEMA_VERSION
    value: float | None = None
    request_id: str | None = None
    session: str | None = None
    scene: str = ""
    context: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def counted_at(self) -> int:
        """The time (ms) that it moves clocks and counts to: its own, where that is not ahead of the intake's."""
        return self.ts if self.ts < self.received_at else self.received_at


class Assignment(Struct, frozen=True, array_like=True, gc=False):
    """The arm that a request was assigned to in one experiment."""

    experiment: str
    arm: str
    unit_type: str
    unit: str
    version: int
    phase: str


class ModelVersion(Struct, frozen=True, array_like=True):
    """What an answer was computed with: the dense bundle's sequence and the sparse sequence of every table."""

    epoch: int = 0
    dense: int = 0
    sparse: dict[str, int] = field(default_factory=dict)


class UsedFeatures(Struct, frozen=True, array_like=True):
    """One feature row as it was used, with its version and the time (ms) at which it became available."""

    view: str
    version: int
    available_at: int
    values: dict[str, Any]


class Shown(Struct, frozen=True, array_like=True, gc=False):
    """One slot of an answer.

    `propensity` is the probability of this item at this slot given the slots before it. `features` are the values of
    the view `item_stats` in its declared order, brought to the request's time; `features_at` is when they became
    available (ms). `team` names the ranker that contributed the slot in an interleaving.
    """

    item: str
    position: int
    score: float
    propensity: float
    source: str
    explored: bool
    features: list[float] = field(default_factory=list)
    features_at: int = 0
    team: str | None = None


class Candidate(Struct, frozen=True, array_like=True, gc=False):
    """A candidate that was not shown, from the logged sample."""

    item: str
    score: float
    source: str


class Impression(Struct, frozen=True, array_like=True):
    """One answer and all that explains it. Topic `impressions`, keyed by user."""

    v: int
    request_id: str
    ts: Integer
    user: str
    items: list[Shown]
    session: str | None = None
    scene: str = ""
    context: dict[str, Any] = field(default_factory=dict)
    arms: list[Assignment] = field(default_factory=list)
    policy: str = ""
    model: ModelVersion = ModelVersion()
    user_features: UsedFeatures | None = None
    candidates: list[Candidate] = field(default_factory=list)


# --- examples and features ----------------------------------------------------------------------------------------


class LabelState(enum.StrEnum):
    """`observed`: the value is known; `pending`: it may still come; `censored`: the window closed without knowing."""

    OBSERVED = "observed"
    PENDING = "pending"
    CENSORED = "censored"


class Label(Struct, frozen=True, array_like=True, gc=False):
    """What is known of one task for one example."""

    state: LabelState
    value: float = 0.0


class Example(Struct, frozen=True, array_like=True):
    """One joined example; a later `revision` of the same `example_id` replaces the earlier. Topic `examples`.

    `example_id` is `request_id/position` for an impression and `event_id` for an organic action. `negative_rate` is the
    rate r at which negatives are kept and `negative_emitted` says whether this example had been emitted as a negative
    before (fake-negative weighting). `cause` is the event id of the action that made this revision, if any.
    """

    v: int
    example_id: str
    revision: int
    ts: int
    user: str
    item: str
    labels: dict[str, Label]
    request_id: str | None = None
    position: int = -1
    propensity: float = 1.0
    scene: str = ""
    session: str | None = None
    context: dict[str, Any] = field(default_factory=dict)
    arms: list[Assignment] = field(default_factory=list)
    policy: str = ""
    model: ModelVersion = ModelVersion()
    user_features: UsedFeatures | None = None
    item_features: list[float] = field(default_factory=list)
    negative_rate: float = 1.0
    negative_emitted: bool = False
    organic: bool = False
    late: bool = False
    correction: bool = False
    cause: str | None = None
    kind: str = ""
    value: float | None = None


class Signals(Struct, frozen=True, array_like=True):
    """What one batch of the join adds to the counts of items. Internal topic `signals`, partitioned by item.

    Columns of one length n, little-endian bytes: `item` (u32) and `arm` (u32) are places in `items` and `arms`, `ts`
    (i64, ms), `impressions` and `positives` (u32), `rating` (f64, NaN: none). An arm is the one whose traffic it came
    from, "" for organic actions.
    """

    v: int
    items: list[str]
    arms: list[str]
    item: bytes
    arm: bytes
    ts: bytes
    impressions: bytes
    positives: bytes
    rating: bytes


class FeatureRow(Struct, frozen=True, array_like=True):
    """One row to push to the feature store. Topic `features`, keyed by `view|entity values`, compacted."""

    v: int
    view: str
    entities: dict[str, str]
    values: dict[str, Any]
    version: int
    ts: int
    available_at: int


# --- the update log -----------------------------------------------------------------------------------------------


class FrameKind(enum.StrEnum):
    """`sparse`: rows of one table shard; `dense`: a bundle of dense parameters; `epoch`: a trainer took over."""

    SPARSE = "sparse"
    DENSE = "dense"
    EPOCH = "epoch"


class Tensor(Struct, frozen=True, array_like=True):
    """A dense parameter: numpy dtype string, shape, C-ordered little-endian bytes."""

    dtype: str
    shape: list[int]
    data: bytes


class Frame(Struct, frozen=True, array_like=True):
    """One frame of the update log. Topic `updates`, keyed by `table/shard`.

    `sequence` is dense within (table, shard, epoch): a gap shows. `learned` maps each examples partition to the next
    offset such that every example before it is completely in this and earlier frames; `partly` is no longer written
    and keeps its place. `keys` (u64), `spaces` (u16), `rows` (`encoding` x `dim` per key) and `tombstones` (u64) are
    little-endian bytes. A dense frame names the sparse sequences that it was trained with.
    An epoch frame voids the frames of older epochs behind (`resumes_epoch`, `resumes`): what the checkpoint contained.
    """

    v: int
    kind: FrameKind
    table: str
    shard: int
    epoch: int
    sequence: int
    created_at: int
    learned: dict[int, int] = field(default_factory=dict)
    partly: dict[int, int] = field(default_factory=dict)
    encoding: str = "f32"
    dim: int = 0
    keys: bytes = b""
    spaces: bytes = b""
    rows: bytes = b""
    tombstones: bytes = b""
    dense: dict[str, Tensor] = field(default_factory=dict)
    trained_with: dict[str, int] = field(default_factory=dict)
    resumes: int = 0
    resumes_epoch: int = 0


# --- experiments, metrics, dead letters ---------------------------------------------------------------------------


class ArmDefinition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One arm: the policy that it serves and its share of the traffic (relative weight)."""

    name: str
    policy: str
    weight: float = 1.0


class Experiment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A versioned experiment definition. Topic `experiments`, keyed by name, compacted.

    Units outside the `ramp` share (0..1) get the `control` arm's policy and are not in the experiment.
    `scene` restricts it to requests of one scene; None means all.
    """

    name: str
    arms: list[ArmDefinition]
    control: str
    v: int = SCHEMA_VERSION
    version: int = 1
    unit_type: str = "user"
    salt: str = ""
    ramp: float = 1.0
    phase: str = "full"
    scene: str | None = None
    active: bool = True


class Metric(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="metric"):
    """One figure of one process. Topic `metrics`, keyed by process, JSON, tagged `metric`."""

    process: str
    name: str
    ts: int
    value: float
    v: int = SCHEMA_VERSION
    labels: dict[str, str] = field(default_factory=dict)


class Validation(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="validation"):
    """A window of progressive validation that merges with others. Topic `metrics`, keyed by process, JSON.

    `window` numbers the window within (learner, task, scene) from the start of the log: a window published again after
    a restart has the same number and replaces the first, and what older epochs published from a newer one's first
    window on is void. `bins_positive` and `bins_negative` count the predictions of each class per bin of predicted
    logit, so that AUC can be had over any set of windows. `n` predictions stand for
    `weight_sum` items shown (0: of a writer that did not weigh, each for itself), as of the negatives only a share may
    be kept; `log_loss_sum` and `prediction_sum` are weighted by that.

    Of a value task (`target` "value") there are no classes, and bins are empty: `label_sum`, `absolute_error_sum` and
    `squared_error_sum` are in the value's units, and `reference_error_sum` are the squared errors of the running mean
    of all labels before each, which the model has to beat.
    """

    process: str
    learner: str
    task: str
    scene: str
    window: int
    ts: int
    first_ts: int
    last_ts: int
    n: int
    positives: int
    log_loss_sum: float
    bins_positive: list[int]
    bins_negative: list[int]
    prediction_sum: float = 0.0
    epoch: int = 0
    target: str = "binary"
    label_sum: float = 0.0
    absolute_error_sum: float = 0.0
    squared_error_sum: float = 0.0
    reference_error_sum: float = 0.0
    weight_sum: float = 0.0
    v: int = SCHEMA_VERSION


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A record that could not be read: its bytes, where it came from, and why. Topic `dead-letters`, JSON."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at: int
    key: bytes | None = None
    value: bytes | None = None
    v: int = SCHEMA_VERSION
