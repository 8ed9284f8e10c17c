"""Records as rows: one function per topic, in the order of the table's columns."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec

from serving.evaluation import tables
from streams import records
from streams.codec import Unreadable

Row = tuple[Any, ...]
_json = msgspec.json.Encoder()
# The integers that a column holds; a record may say more than that and would then block its whole batch.
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Origin(msgspec.Struct, frozen=True):
    """Where a record came from."""

    topic: str
    partition: int
    offset: int


def rows_of(record: Any, origin: Origin) -> Iterator[tuple[tables.Table, Row]]:
    """The rows of one record with the table that each belongs to.

    Raises:
        Unreadable: a number that no column can hold.
    """
    to_rows = _ROWS[type(record)]
    head = (origin.topic, origin.partition, origin.offset)
    for table, row in to_rows(record, head):
        for column, value in zip(table.columns, row, strict=True):
            for number in _numbers(value):
                if type(number) is int and not _LOWEST <= number <= _HIGHEST:
                    raise Unreadable(f"{column.name} == {number}, must be a signed 64-bit integer")
        yield table, row


def _numbers(value: Any) -> Iterable[Any]:
    if type(value) is int:
        return (value,)
    if type(value) is list:
        return value
    return value.values() if type(value) is dict else ()


def _text(value: Any) -> str:
    """JSON, and nothing for nothing."""
    return _json.encode(value).decode() if value else ""


def _arms(arms: list[records.Assignment]) -> Row:
    return (
        [a.experiment for a in arms],
        [a.arm for a in arms],
        [a.unit_type for a in arms],
        [a.unit for a in arms],
        [a.version for a in arms],
        [a.phase for a in arms],
    )


def _model(model: records.ModelVersion) -> Row:
    return (model.epoch, model.dense, model.sparse)


def _impression(record: records.Impression, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    request = (record.request_id, record.user, record.session or "", record.scene, record.policy)
    versions = (*_model(record.model), *_arms(record.arms))
    for slot, shown in enumerate(record.items):
        large = ("", "", "")
        if slot == 0:
            features = _text(record.user_features)
            large = (_text(record.context), features, _text(record.candidates))
        row = (
            *(*head, record.ts, slot, *request, *versions),
            *(shown.item, shown.position, shown.score, shown.propensity, shown.source, shown.explored),
            *(shown.features, shown.features_at, shown.team or "", *large),
        )
        yield tables.IMPRESSIONS, row


def _action(record: records.Action, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    row = (
        *(*head, record.ts, record.received_at, record.event_id, record.user, record.item, record.kind),
        *(record.value, record.request_id or "", record.session or "", record.scene),
        *(_text(record.context), _text(record.extra)),
    )
    yield tables.ACTIONS, row


def _example(record: records.Example, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    labels = record.labels.items()
    row = (
        *(*head, record.ts, record.example_id, record.revision, record.user, record.item),
        *(record.request_id or "", record.position, record.propensity, record.scene, record.session or ""),
        *(record.policy, *_model(record.model), *_arms(record.arms)),
        *([task for task, _ in labels], [str(label.state) for _, label in labels]),
        *([label.value for _, label in labels], _text(record.user_features), record.item_features),
        *(_text(record.context), record.negative_rate, record.negative_emitted, record.organic, record.late),
        *(record.correction, record.cause or "", record.kind, record.value),
    )
    yield tables.EXAMPLES, row


def _metric(record: records.Metric, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    yield tables.METRICS, (*head, record.ts, record.process, record.name, record.value, record.labels)


def _validation(record: records.Validation, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    row = (
        *(*head, record.ts, record.process, record.learner, record.task, record.scene, record.window),
        *(record.first_ts, record.last_ts, record.n, record.positives, record.log_loss_sum),
        *(record.prediction_sum, record.epoch, record.bins_positive, record.bins_negative),
        *(record.target, record.label_sum, record.absolute_error_sum, record.squared_error_sum),
        *(record.reference_error_sum, record.weight_sum),
    )
    yield tables.VALIDATIONS, row


def _dead_letter(record: records.DeadLetter, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    row = (
        *(*head, record.at, record.topic, record.partition, record.offset, record.reason, record.detail),
        *(record.key or b"", record.value or b""),
    )
    yield tables.DEAD_LETTERS, row


def _experiment(record: records.Experiment, head: Row) -> Iterator[tuple[tables.Table, Row]]:
    # A definition has no time of its own; its version orders it.
    yield tables.EXPERIMENTS, (*head, 0, record.name, record.version, _text(record))


_ROWS: Final[dict[type, Callable[[Any, Row], Iterator[tuple[tables.Table, Row]]]]] = {
    records.Impression: _impression,
    records.Action: _action,
    records.Example: _example,
    records.Metric: _metric,
    records.Validation: _validation,
    records.DeadLetter: _dead_letter,
    records.Experiment: _experiment,
}
