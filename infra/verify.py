"""`freshet verify`: what the cluster and ClickHouse hold against what freshet declares."""

from collections.abc import Iterable, Mapping

import typer

from infra import settings as settings_module
from infra.console import Config, StateDir, actual, out, reported
from streams.records import Experiment


def verify(config: Config = None, state: StateDir = None) -> None:
    """Say what differs on the cluster and in ClickHouse from what freshet declares, and count the dead letters by their
    reason; exit code 1 where anything differs."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    from infra.provision import definitions
    from serving.evaluation import clickhouse, schema
    from serving.evaluation.queries import dead_letters
    from streams.admin import verify_topics
    from streams.kafka import BrokerAway

    letters: Mapping[str, int] = {}
    with reported(BrokerAway, ClickHouseError, ValueError):
        said = settings_module.load(config, state)
        settings = actual(said)
        found = verify_topics(settings.streams)
        if not found:
            # A file that was changed since the start says more than what the stack was started with.
            declared = said if settings_module.used(config) else settings
            found += undeclared(definitions(settings.kafka), declared.serving.experiments)
        client = clickhouse.connect(settings.serving.clickhouse)
        try:
            tables = schema.verify(client, settings.serving.clickhouse)
            letters = {} if tables else dead_letters(client)
        finally:
            client.close()
        found += tables
    for difference in found:
        out.print(difference, markup=False, highlight=False)
    if letters:
        counted = ", ".join(f"{count:,} {reason}" for reason, count in letters.items())
        out.print(f"dead letters: {counted}", markup=False, highlight=False)
    if found:
        raise typer.Exit(1)
    out.print("topics, tables and experiments are as declared")


def undeclared(known: Mapping[str, Experiment], declared: Iterable[Experiment]) -> list[str]:
    """One line for each experiment that goes on although the settings no longer name it."""
    names = {experiment.name for experiment in declared}
    return [
        f"experiment {name}: runs as version {experiment.version}, and serving.experiments does not name it: it ends "
        f"by `active = false` and `version = {experiment.version + 1}`"
        for name, experiment in sorted(known.items())
        if experiment.active and name not in names
    ]
