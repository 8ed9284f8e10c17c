"""Prepares a cluster for freshet: its topics, and the experiments that the settings declare."""

import logging
import math
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final

from infra.settings import Settings, SettingsError
from streams.admin import ensure_topics
from streams.kafka import MAX_REQUEST_BYTES, producer
from streams.logs import ends_of, raw_records
from streams.records import Experiment
from streams.settings import KafkaSettings
from streams.topics import EXPERIMENTS

logger = logging.getLogger(__name__)

_F32_BYTES: Final = 4
# Names, shapes and what else the record says take less than the rest.
MOST_BUNDLE_BYTES: Final = MAX_REQUEST_BYTES - 2**20


def provision(settings: Settings, *, wait_s: float = 60.0, stop: threading.Event | None = None) -> None:
    """Creates missing topics and publishes new or newer experiment definitions; safe to repeat.

    Raises SettingsError where a definition changed without a new version or the model is too large to be published,
    BrokerAway, Stopped.
    """
    check_bundle(settings)
    ensure_topics(settings.streams, wait_s=wait_s, stop=stop)
    wanted = settings.serving.experiments
    due = changes(definitions(settings.kafka, wait_s=wait_s, stop=stop), wanted)
    if due:
        publish(settings.kafka, due, wait_s=wait_s, stop=stop)


def check_bundle(settings: Settings) -> None:
    """Raises SettingsError where the dense parameters do not fit the one record in which they are published."""
    # What knows the models takes half a second to import.
    from online_learning.models.retriever import dense_shapes

    size_bytes = sum(_F32_BYTES * math.prod(shape) for shape in dense_shapes(settings.learning).values())
    if size_bytes > MOST_BUNDLE_BYTES:
        raise SettingsError(
            f"learning.model and learning.retrieval: the dense parameters have {size_bytes:,} bytes, must be at most "
            f"{MOST_BUNDLE_BYTES:,}: one record holds them all; set smaller `hidden`, `dim` or `cross_layers`"
        )


def changes(known: Mapping[str, Experiment], wanted: Iterable[Experiment]) -> list[Experiment]:
    """The definitions to publish: those that are new, or newer than the known one of their name.

    An experiment whose definition changes under the same version could not be judged: units counted under one split
    would be compared under another. Raises SettingsError then, and where the version went back.
    """
    due = []
    for experiment in wanted:
        before = known.get(experiment.name)
        if before is not None and experiment.version <= before.version:
            if experiment != before:
                raise SettingsError(
                    f"serving.experiments: {experiment.name!r} differs from what runs as version {before.version}: "
                    f"set `version` to {before.version + 1}"
                )
            continue
        due.append(experiment)
    return due


def definitions(
    settings: KafkaSettings, *, wait_s: float = 60.0, stop: threading.Event | None = None
) -> dict[str, Experiment]:
    """Every experiment's newest definition on the cluster, by name."""
    ends = ends_of(settings, [EXPERIMENTS.name], wait_s=wait_s, stop=stop)
    return newest(raw_records(settings, ends, wait_s=wait_s, stop=stop))


def newest(records: Iterable[Any]) -> dict[str, Experiment]:
    """The newest definition by name of Kafka's records in their order; what cannot be read is passed over, as the
    replicas do."""
    found: dict[str, Experiment] = {}
    for record in records:
        try:
            if record.value is not None:
                definition = EXPERIMENTS.codec.decode(record.value)
                found[definition.name] = definition
            elif record.key is not None:
                found.pop(record.key.decode(), None)
        except (ValueError, RecursionError) as error:
            logger.warning("a record of %s is passed over: %s", EXPERIMENTS.name, error)
    return found


def publish(
    settings: KafkaSettings,
    experiments: Iterable[Experiment],
    *,
    wait_s: float = 60.0,
    stop: threading.Event | None = None,
) -> None:
    """Publishes definitions; they take effect as soon as the replicas have read them."""
    with producer(settings, client_id="freshet-provision", wait_s=wait_s, stop=stop) as sender:
        for experiment in experiments:
            sender.send(EXPERIMENTS, experiment, experiment.name)
        sender.flush(wait_s)
