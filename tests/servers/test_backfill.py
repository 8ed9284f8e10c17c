"""A backfill and the live trainer after it are the trainer that was there from the start, example for example."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from infra.cli import app
from online_learning.backfill import Backfill, BackfillError, BackfillReport, run
from online_learning.checkpoint.checkpoint import Checkpoint, CheckpointError
from online_learning.checkpoint.store import CheckpointStore
from online_learning.learner import table_settings
from online_learning.settings import LearningSettings, RowSettings
from online_learning.state import dense_parameters, meta_of
from online_learning.stored_examples import BadExamples, stored_examples
from online_learning.table.settings import EvictionPolicy
from online_learning.table.table import Table
from online_learning.updates.position import TABLE
from serving.evaluation import clickhouse, schema, tables
from serving.evaluation.rows import Origin, rows_of
from serving.replica import run as run_replica
from serving.settings import ClickHouseSettings, ServingSettings
from serving.shared.mirror import Mirror
from streams import kafka
from streams.admin import cut
from streams.records import ModelVersion
from streams.topics import EXAMPLES
from tests.forked import Forked
from tests.stacks import RunningStack, wait_until
from tests.threads import in_thread
from tests.trainers import (
    SLOTS,
    TASKS_WITH_DWELL,
    learning_settings,
    scale_of,
    send_items,
    send_requests,
    trainer_in_thread,
)

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

# All examples in one partition and one at a time, and nothing of impressions, which are read when there is time: then
# the order is the same for whoever reads them, whenever.
PARTITION = 0
STORED, LIVE = 80, 40


class World:
    """A Kafka with STORED requests on it, and then LIVE more; who clicks also tells how long they stayed."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self.kafka, self.folder = stack.settings.kafka, folder
        with kafka.producer(self.kafka) as producer:
            send_items(producer)
        self.sent = 0
        self.send(STORED)

    def send(self, requests: int) -> None:
        with kafka.producer(self.kafka) as producer:
            first = self.sent // SLOTS
            self.sent += send_requests(producer, first, first + requests, partition=PARTITION, dwell=True)

    def settings(self, name: str, **trainer: object) -> LearningSettings:
        settings = learning_settings(self.kafka, self.folder / name, max_batch=1, fake_negatives=False, **trainer)
        return msgspec.structs.replace(settings, tasks=TASKS_WITH_DWELL)

    def live(self, name: str, **trainer: object) -> Checkpoint:
        """A live trainer until all that was sent is learned; its last checkpoint."""
        with trainer_in_thread(self.settings(name, **trainer)) as health:
            wait_until(lambda: health.values["learned"] >= self.sent, 120, "all is learned")
        return newest(self.folder / name)

    def backfill(self, name: str, files: tuple[Path, ...] = ()) -> BackfillReport:
        return run(self.settings(name), files, threading.Event())

    def rows(self) -> list[tuple[Any, ...]]:
        """The examples on the topic now as rows of ClickHouse's table."""
        return [
            row
            for offset, example in enumerate(examples_on(self.kafka))
            for _, row in rows_of(example, Origin(EXAMPLES.name, PARTITION, offset))
        ]

    def json_lines(self) -> Path:
        """They as JSON lines."""
        columns = [column.name for column in tables.EXAMPLES.columns]
        path = self.folder / "log.jsonl"
        as_json_lines([dict(zip(columns, row, strict=True)) for row in self.rows()], path)
        return path

    def parquet(self, address: str) -> Path:
        """They as a real ClickHouse exports them."""
        settings = ClickHouseSettings(address=address, database=f"backfill_{os.getpid()}_{self.folder.name}")
        clickhouse.create_database(settings)
        client = clickhouse.connect(settings)
        try:
            schema.ensure(client, settings)
            clickhouse.insert(client, tables.EXAMPLES, self.rows(), "all", settings.database)
            query = f"SELECT * FROM {settings.database}.examples ORDER BY offset, partition"
            content = client.raw_query(query, fmt="Parquet")
            client.command(f"DROP DATABASE {settings.database}")
        finally:
            client.close()
        path = self.folder / "log.parquet"
        path.write_bytes(content)
        return path


def examples_on(settings: Any) -> list[Any]:
    from tests.stream_logs import read_all

    return read_all(settings, EXAMPLES).get(PARTITION, [])


def newest(folder: Path) -> Checkpoint:
    checkpoint = CheckpointStore(folder).load_newest()
    assert checkpoint is not None
    return checkpoint


def assert_same(world: World, one: Checkpoint, other: Checkpoint) -> None:
    """Both hold the same rows, network and scale of values, byte for byte, of the same examples."""
    settings = table_settings(world.settings("any"))
    digests = [Table.restore(settings, found.tables[TABLE]).digest() for found in (one, other)]
    assert digests[0] == digests[1]
    parameters = [dense_parameters(found) for found in (one, other)]
    assert {name: value.tobytes() for name, value in parameters[0].items()} == {
        name: value.tobytes() for name, value in parameters[1].items()
    }
    assert scale_of(one) == scale_of(other)
    assert one.offsets[EXAMPLES.name] == other.offsets[EXAMPLES.name]
    counters = [meta_of(found).counters for found in (one, other)]
    assert counters[0].learned == counters[1].learned == world.sent
    assert counters[0].labels == counters[1].labels
    assert scale_of(one).seen == [counters[0].labels["dwell"]] and counters[0].labels["dwell"] > 0


def as_json_lines(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def clickhouse_address(request: pytest.FixtureRequest, kind: str) -> str:
    """A ClickHouse, where one is needed."""
    return str(request.getfixturevalue("clickhouse")) if kind == "parquet" else ""


@pytest.fixture
def world(fresh_kafka: RunningStack, tmp_path: Path) -> World:
    return World(fresh_kafka, tmp_path)


def test_a_backfill_of_the_topic_and_what_is_live_afterwards_equal_one_trainer_from_the_start(world: World) -> None:
    report = world.backfill("kept")
    assert report.done
    assert (report.from_files, report.from_topic) == (0, world.sent)
    assert report.offsets[PARTITION] == world.sent
    world.send(LIVE)
    continued = world.live("kept")
    assert_same(world, continued, world.live("from-the-start"))
    assert meta_of(continued).counters.examples == {PARTITION: world.sent}


def test_a_backfill_holds_no_windows_of_its_history_and_keeps_their_sums(world: World) -> None:
    backfill = Backfill(world.settings("kept", validation_window=10), (), threading.Event())
    assert backfill.run().learned == world.sent
    progressive = backfill._learners.progressive
    assert progressive.take_closed(0, 1) == []
    assert backfill._learners.drift.take_begun() == []
    kept = progressive.state()
    assert {(tally.window, tally.n < 10) for *_, tally in kept.tallies} == {(0, True)}
    assert {tally.n for _, task, tally in kept.totals if task == "click"} == {world.sent}


def test_a_backfill_lets_rows_go_by_the_events_time_and_remembers_no_removal(world: World) -> None:
    rows = RowSettings(max_rows=20, eviction=EvictionPolicy.LRU, evict_interval_s=0.001)
    settings = msgspec.structs.replace(world.settings("kept", checkpoint_interval_s=0.05), rows=rows)
    backfill = Backfill(settings, (), threading.Event())
    report = backfill.run()
    table = backfill._learners.online.table
    evicted, remembered = table.gone
    assert report.learned == world.sent
    assert evicted > 20
    assert report.rows < 40
    assert remembered == 0
    restored = Table.restore(table_settings(settings), newest(world.folder / "kept").tables[TABLE])
    assert restored.digest() == table.digest()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_files_that_say_where_they_stood_are_followed_by_the_very_next_example(
    world: World, kind: str, clickhouse_address: str
) -> None:
    stored = world.parquet(clickhouse_address) if kind == "parquet" else world.json_lines()
    # What the model learns from is all there; the versions of what answered at the time are not.
    wanted = [msgspec.structs.replace(example, model=ModelVersion()) for example in examples_on(world.kafka)]
    assert [example for example, _ in stored_examples(stored)] == wanted
    world.send(LIVE)
    report = world.backfill("kept", (stored,))
    assert (report.from_files, report.from_topic) == (STORED * SLOTS, LIVE * SLOTS)
    world.send(LIVE)
    assert_same(world, world.live("kept"), world.live("from-the-start"))


def test_files_reach_further_back_than_the_topic(world: World) -> None:
    stored = world.json_lines()
    from_the_start = world.live("from-the-start")
    cut(world.kafka, {(EXAMPLES.name, PARTITION): world.sent})
    report = world.backfill("kept", (stored,))
    assert (report.from_files, report.from_topic) == (world.sent, 0)
    assert_same(world, newest(world.folder / "kept"), from_the_start)


def test_what_would_be_missed_or_learned_twice_is_an_error(world: World) -> None:
    stored = world.json_lines()
    rows = [json.loads(line) for line in stored.read_text().splitlines()]
    anywhere = world.folder / "anywhere.jsonl"
    as_json_lines(
        [{name: v for name, v in row.items() if name not in ("partition", "offset")} for row in rows], anywhere
    )
    with pytest.raises(BackfillError, match="is in the files and on the topic"):
        world.backfill("twice", (anywhere,))
    backwards = world.folder / "backwards.jsonl"
    as_json_lines(rows[::-1], backwards)
    with pytest.raises(BackfillError, match="in the order of their offsets"):
        world.backfill("backwards", (backwards,))
    half = world.folder / "half.jsonl"
    as_json_lines(rows[: len(rows) // 2], half)
    cut(world.kafka, {(EXAMPLES.name, PARTITION): len(rows) // 2 + 1})
    with pytest.raises(BackfillError, match="what lies between would be missed"):
        world.backfill("missed", (half,))
    other = world.folder / "other.jsonl"
    as_json_lines([{**rows[0], "offset": 10 * len(rows)}], other)
    with pytest.raises(BackfillError, match="of another"):
        world.backfill("other", (other,))
    (world.folder / "bad.jsonl").write_text('{"ts": 1, "user": "u"}\n')
    with pytest.raises(BadExamples, match=r"row 0: .*item"):
        world.backfill("bad", (world.folder / "bad.jsonl",))


def test_neither_a_trainers_place_nor_an_unfinished_backfill_is_taken_for_the_other(world: World) -> None:
    world.live("live")
    with pytest.raises(BackfillError, match="holds a trainer's checkpoints"):
        world.backfill("live")
    stopped = threading.Event()
    report = run(world.settings("half"), (), stopped, lambda _: stopped.set())
    if not report.done:
        with pytest.raises(CheckpointError, match="freshet backfill"), trainer_in_thread(world.settings("half")):
            pass
        assert world.backfill("half").done
    with pytest.raises(BackfillError, match="is done"):
        world.backfill("half")


def test_the_command_says_what_it_did_and_refuses_to_do_it_twice(world: World) -> None:
    config = world.folder / "freshet.toml"
    config.write_text(f'[kafka]\nbootstrap = "{world.kafka.bootstrap}"\n')
    command = ["backfill", str(world.json_lines()), "--to", str(world.folder / "kept"), "--config", str(config)]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["done"], report["from_files"], report["learned"]) == (True, world.sent, world.sent)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1
    assert "is done" in again.output


def _backfill(settings: bytes, files: tuple[str, ...]) -> None:
    run(msgspec.json.decode(settings, type=LearningSettings), [Path(file) for file in files], threading.Event())


@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["topic", "files"])
def test_a_backfill_killed_again_and_again_learns_each_example_once(world: World, source: str) -> None:
    world.send(120)
    files = (world.json_lines(),) if source == "files" else ()
    settings = world.settings("kept", checkpoint_interval_s=0.3)
    kills = 0
    while True:
        before = max(_numbers(world.folder / "kept"), default=0)
        process = Forked(_backfill, msgspec.json.encode(settings), tuple(map(str, files)))
        if kills < 2:
            wait_until(
                lambda: process.poll() is not None or max(_numbers(world.folder / "kept"), default=0) > before,  # noqa: B023
                120,
                "it has kept itself",
            )
            process.kill()
        code = process.wait(120)
        if code == 0:
            break
        assert code == -9
        kills += 1
    assert kills >= 1
    undisturbed = world.backfill("undisturbed", files)
    assert undisturbed.learned == world.sent
    assert_same(world, newest(world.folder / "kept"), newest(world.folder / "undisturbed"))


def _numbers(folder: Path) -> list[int]:
    return CheckpointStore(folder).numbers()


@contextmanager
def replica(world: World, name: str) -> Iterator[Mirror]:
    shm = world.folder / "shm"
    settings = ServingSettings(kafka=world.kafka, learning=world.settings(name), shm_dir=str(shm))
    try:
        with in_thread(run_replica, settings) as health:
            wait_until(lambda: health.values, 60, "the replica is ready")
            yield Mirror(shm)
    finally:
        shutil.rmtree(shm, ignore_errors=True)


def test_replicas_leave_the_old_history_for_the_backfilled_one(world: World) -> None:
    def holds(mirror: Mirror) -> bool:
        mirror.refresh()
        return sum(mirror.lineage().learned.values()) == world.sent

    with replica(world, "kept") as mirror:
        # The replica knows nothing of its checkpoints, so no frame may be deleted before the replica has read it.
        world.live("old", checkpoint_interval_s=3600.0)
        wait_until(lambda: holds(mirror), 60, "the old history is at the replica")
        epoch = mirror.lineage().epoch
        world.send(LIVE)
        world.backfill("kept")
        world.send(LIVE)
        with trainer_in_thread(world.settings("kept")):
            wait_until(lambda: holds(mirror), 60, "the new history is at the replica")
            assert mirror.lineage().epoch == epoch + 1
        digest = mirror.table.digest()
    kept = newest(world.folder / "kept")
    assert Table.restore(table_settings(world.settings("kept")), kept.tables[TABLE]).digest() == digest
