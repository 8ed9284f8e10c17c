"""The tables in ClickHouse, declared in one place.

Every row carries the topic, partition and offset of the record that it came from: together with the slot within the
record they are its identity, and the largest offset is where the sink goes on. Times are event times in ms since the
epoch, as in the records.
"""

from typing import Final

import msgspec

from streams import topics

_TEXT: Final = "String"
_NAME: Final = "LowCardinality(String)"
_INT: Final = "Int64"
_REAL: Final = "Float64"


class Column(msgspec.Struct, frozen=True):
    """A column that the sink writes; `name` with a dot is part of a nested structure."""

    name: str
    type: str


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table, the topic that fills it, and what tells its rows apart within one record."""

    name: str
    topic: str
    columns: tuple[Column, ...]
    slot: str | None = None

    @property
    def column_names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def column_types(self) -> list[str]:
        return [column.type for column in self.columns]


def _columns(text: str) -> tuple[Column, ...]:
    """Columns from lines of `name type`."""
    pairs = (line.strip().partition(" ")[::2] for line in text.splitlines() if line.strip())
    return tuple(Column(name, kind.strip()) for name, kind in pairs)


_ORIGIN = f"""
    topic {_NAME}
    partition {_INT}
    offset {_INT}
    ts {_INT}
"""
_MODEL = f"""
    epoch {_INT}
    dense {_INT}
    sparse Map({_NAME}, {_INT})
"""
_ARMS = f"""
    arms.experiment Array({_NAME})
    arms.arm Array({_NAME})
    arms.unit_type Array({_NAME})
    arms.unit Array({_TEXT})
    arms.version Array({_INT})
    arms.phase Array({_NAME})
"""

# One row an item shown. What belongs to the request as a whole and is large (context, user features, candidates: JSON)
# stands in the row of its first slot only.
IMPRESSIONS = Table(
    name="impressions",
    topic=topics.IMPRESSIONS.name,
    slot="slot",
    columns=_columns(
        f"""{_ORIGIN}
        slot {_INT}
        request_id {_TEXT}
        user {_TEXT}
        session {_TEXT}
        scene {_NAME}
        policy {_NAME}
        {_MODEL.strip()}
        {_ARMS.strip()}
        item {_TEXT}
        position {_INT}
        score {_REAL}
        propensity {_REAL}
        source {_NAME}
        explored Bool
        item_features Array({_REAL})
        item_features_at {_INT}
        team {_NAME}
        context {_TEXT}
        user_features {_TEXT}
        candidates {_TEXT}"""
    ),
)
ACTIONS = Table(
    name="actions",
    topic=topics.ACTIONS.name,
    columns=_columns(
        f"""{_ORIGIN}
        received_at {_INT}
        event_id {_TEXT}
        user {_TEXT}
        item {_TEXT}
        kind {_NAME}
        value Nullable({_REAL})
        request_id {_TEXT}
        session {_TEXT}
        scene {_NAME}
        context {_TEXT}
        extra {_TEXT}"""
    ),
)
EXAMPLES = Table(
    name="examples",
    topic=topics.EXAMPLES.name,
    columns=_columns(
        f"""{_ORIGIN}
        example_id {_TEXT}
        revision {_INT}
        user {_TEXT}
        item {_TEXT}
        request_id {_TEXT}
        position {_INT}
        propensity {_REAL}
        scene {_NAME}
        session {_TEXT}
        policy {_NAME}
        {_MODEL.strip()}
        {_ARMS.strip()}
        labels.task Array({_NAME})
        labels.state Array({_NAME})
        labels.value Array({_REAL})
        user_features {_TEXT}
        item_features Array({_REAL})
        context {_TEXT}
        negative_rate {_REAL}
        negative_emitted Bool
        organic Bool
        late Bool
        correction Bool
        cause {_TEXT}
        kind {_NAME}
        value Nullable({_REAL})"""
    ),
)
METRICS = Table(
    name="metrics",
    topic=topics.METRICS.name,
    columns=_columns(
        f"""{_ORIGIN}
        process {_NAME}
        name {_NAME}
        value {_REAL}
        labels Map({_NAME}, {_TEXT})"""
    ),
)
VALIDATIONS = Table(
    name="validations",
    topic=topics.METRICS.name,
    columns=_columns(
        f"""{_ORIGIN}
        process {_NAME}
        learner {_NAME}
        task {_NAME}
        scene {_NAME}
        window {_INT}
        first_ts {_INT}
        last_ts {_INT}
        n {_INT}
        positives {_INT}
        log_loss_sum {_REAL}
        prediction_sum {_REAL}
        epoch {_INT}
        bins_positive Array({_INT})
        bins_negative Array({_INT})
        target {_NAME}
        label_sum {_REAL}
        absolute_error_sum {_REAL}
        squared_error_sum {_REAL}
        reference_error_sum {_REAL}
        weight_sum {_REAL}"""
    ),
)
DEAD_LETTERS = Table(
    name="dead_letters",
    topic=topics.DEAD_LETTERS.name,
    columns=_columns(
        f"""{_ORIGIN}
        origin_topic {_NAME}
        origin_partition {_INT}
        origin_offset {_INT}
        reason {_NAME}
        detail {_TEXT}
        key {_TEXT}
        value {_TEXT}"""
    ),
)
EXPERIMENTS = Table(
    name="experiments",
    topic=topics.EXPERIMENTS.name,
    columns=_columns(
        f"""{_ORIGIN}
        name {_NAME}
        version {_INT}
        definition {_TEXT}"""
    ),
)
# How far the sink is where the rows cannot tell: partitions whose last records made no row.
PROGRESS = Table(
    name="sink_progress",
    topic="",
    columns=_columns(
        f"""topic {_NAME}
        partition {_INT}
        cluster {_NAME}
        next_offset {_INT}"""
    ),
)

LOGS: Final = (IMPRESSIONS, ACTIONS, EXAMPLES, METRICS, VALIDATIONS, DEAD_LETTERS, EXPERIMENTS)
TABLES: Final = (*LOGS, PROGRESS)
