"""Trainer, replica and broker are killed with -9 while updates flow; afterwards every replica row is the trainer's."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from infra.local.state import read_json, write_json
from online_learning.settings import LearningSettings, ModelSettings, TrainerSettings
from serving.replica import run
from serving.settings import ServingSettings
from serving.shared.mirror import Mirror
from streams.health import Health, read_health
from tests.faults import update_driver
from tests.faults.update_driver import DIM, KEYS, MARKER, Result, bias, reference
from tests.forked import Forked
from tests.stacks import RunningStack, wait_until

pytestmark = pytest.mark.faults


def replica(settings: bytes, health: Path) -> None:
    """Runs until it is killed."""
    run(msgspec.json.decode(settings, type=ServingSettings), threading.Event(), Health(health))


class World:
    """A driver and a replica on one Kafka; `watch` checks, while it waits, that no answer claims more than it has."""

    def __init__(self, stack: RunningStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.shm = Path(tempfile.mkdtemp(prefix="freshet-test-", dir="/dev/shm"))
        trainer = TrainerSettings(checkpoint_dir=str(folder / "checkpoints"))
        learning = LearningSettings(model=ModelSettings(dim=DIM - 1), trainer=trainer)
        self.settings = ServingSettings(kafka=stack.settings.kafka, learning=learning, shm_dir=str(self.shm))
        self.mirror = Mirror(self.shm)
        self.processes: dict[str, Forked] = {}

    def start(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        if name == "driver":
            process = Forked(update_driver.main, self.stack.settings.kafka.bootstrap, self.folder, log=log)
        else:
            process = Forked(replica, msgspec.json.encode(self.settings), self.folder / "health.json", log=log)
        self.processes[name] = process

    def kill(self, name: str) -> None:
        self.processes[name].kill()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        shutil.rmtree(self.shm, ignore_errors=True)

    @property
    def step(self) -> int:
        return read_json(self.folder / "step.json", int) or 0

    def watch(self) -> int:
        """The steps that an answer of now would claim; the marker's row must have at least those."""
        self.mirror.refresh()
        before = self.mirror.lineage()
        rows, found = self.mirror.table.lookup(np.array([MARKER], np.uint64))
        after = self.mirror.lineage()
        claimed = before.learned.get(0, 0)
        # A trainer that starts again takes back what its checkpoint does not know: that is a new epoch's doing.
        if claimed and before.epoch == after.epoch:
            assert found[0]
            assert rows[0, 0] >= claimed, (rows[0, 0], before, after)
            assert (rows[0] == rows[0, 0]).all()
        return claimed

    def wait(self, condition: object, what: str, timeout_s: float = 90.0) -> None:
        def holds() -> object:
            for name, process in self.processes.items():
                code = process.poll()
                # The driver ends by itself once it has written its result.
                fine = code in (None, -signal.SIGKILL) or (name == "driver" and code == 0 and self.result.exists())
                assert fine, f"{name} ended with {code}\n{self.words(name)}"
            self.watch()
            return condition() if callable(condition) else condition

        try:
            wait_until(holds, timeout_s, what)
        except AssertionError as error:
            words = "".join(self.words(name) for name in self.processes)
            raise AssertionError(f"{error}\nstep {self.step}, lineage {self.mirror.lineage()}\n{words}") from None

    @property
    def result(self) -> Path:
        """What the driver ended with, once it is there."""
        return self.folder / "result.json"

    def words(self, name: str) -> str:
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return f"--- {name}\n{text[-2000:]}\n"

    def go_on(self, steps: int) -> None:
        """Waits until what readers see has gone on by that many steps."""
        wanted = self.watch() + steps
        self.wait(lambda: self.watch() >= wanted, f"{steps} more steps at the readers")

    def finish(self) -> Result:
        """Lets the driver come to rest and returns what it ended with, once readers have it."""
        write_json(self.folder / "quiesce.json", self.step + 50)
        self.wait(self.result.exists, "the driver's result")
        assert self.processes.pop("driver").wait(30) == 0
        result = msgspec.json.decode(self.result.read_bytes(), type=Result)
        self.wait(lambda: self.watch() == result.step, "the last step at the readers")
        wanted = bias(result.step)["bias"]
        self.wait(lambda: self.mirror.dense().parameters.get("bias") == wanted, "the last bundle")
        return result


@pytest.fixture
def world(fresh_kafka: RunningStack, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "world"
    folder.mkdir()
    world = World(fresh_kafka, folder)
    try:
        yield world
    finally:
        world.close()


def assert_equal(world: World, result: Result) -> None:
    """Every row of the replica is the driver's, and both are what an undisturbed run makes; deleted rows are gone."""
    wanted = reference(result.step)
    assert result.digest == wanted.digest(), "the trainer itself went astray"
    assert world.mirror.table.digest() == result.digest
    keys = np.arange(1, KEYS, dtype=np.uint64)
    _, found = world.mirror.table.lookup(keys)
    assert np.array_equal(found, wanted.find(keys) >= 0)
    assert not found.all()
    lineage = world.mirror.lineage()
    assert (lineage.epoch, lineage.sequence) == (result.epoch, result.sequence)


@pytest.mark.timeout(600)
def test_after_any_kill_the_replica_is_the_trainer_byte_for_byte(world: World) -> None:
    rng = np.random.default_rng(0)
    world.start("driver")
    world.start("replica")
    world.go_on(100)
    for victims in 2 * [("replica",), ("driver",), ("driver", "replica")]:
        for name in victims:
            world.kill(name)
        for name in victims:
            world.start(name)
        world.go_on(int(rng.integers(20, 140)))
    assert_equal(world, world.finish())


@pytest.mark.timeout(600)
def test_a_broker_that_dies_loses_no_update(world: World) -> None:
    world.start("driver")
    world.start("replica")
    world.go_on(50)
    world.stack.wait_back("kafka", world.stack.kill("kafka"))
    world.go_on(100)
    result = world.finish()
    assert_equal(world, result)


@pytest.mark.timeout(600)
def test_a_replica_that_was_away_longer_than_the_log_reaches_back_starts_from_a_checkpoint(world: World) -> None:
    world.start("driver")
    world.start("replica")
    world.go_on(50)
    world.processes["replica"].send_signal(signal.SIGSTOP)
    there = world.step
    # Checkpoints every 40 steps, 2 kept with what they build on: long before this the log was cut.
    wait_until(lambda: world.step > there + 500, 90, "500 more steps")
    world.processes["replica"].send_signal(signal.SIGCONT)
    world.go_on(100)
    world.wait(lambda: _gaps(world) > 0, "the gap was noticed")
    assert_equal(world, world.finish())


def _gaps(world: World) -> int:
    report = read_health(world.folder / "health.json")
    return 0 if report is None else int(report.values.get("gaps", 0))
