"""Trainers and their input for tests: examples by the thousand, a trainer in a thread or in a process to be killed."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import torch

from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.settings import LearningSettings, ModelSettings, TrainerSettings
from online_learning.state import trainer_state
from online_learning.trainer import run
from online_learning.value_scale import ScaleState
from streams import kafka
from streams.health import Health, HealthReport, read_health
from streams.records import SCHEMA_VERSION, Example, Impression, Item, Label, LabelState, Shown
from streams.settings import KafkaSettings, Target, TaskSettings
from streams.topics import EXAMPLES, IMPRESSIONS, ITEMS
from tests.forked import Forked, event
from tests.threads import in_thread

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating"))
TASKS_WITH_DWELL = (*TASKS, TaskSettings(name="dwell", target=Target.VALUE))
ITEM_COUNT = 50
SLOTS = 5


def learning_settings(settings: KafkaSettings, folder: Path, **trainer: object) -> LearningSettings:
    """A small model that keeps itself twice a second under `folder`."""
    told = {"checkpoint_interval_s": 0.5, "checkpoint_dir": str(folder), "validation_window": 100, **trainer}
    return LearningSettings(
        kafka=settings,
        tasks=TASKS,
        model=ModelSettings(dim=4, hidden=(8,)),
        trainer=msgspec.convert(told, TrainerSettings),
    )


def send_items(producer: kafka.Producer) -> None:
    """The catalogue."""
    for number in range(ITEM_COUNT):
        item = Item(item=f"i{number}", attributes={"category": f"c{number % 5}"})
        producer.send(ITEMS, item, item.item)


def send_requests(
    producer: kafka.Producer,
    first: int,
    last: int,
    partition: int | None = None,
    scene: str = "",
    turned_round: bool = False,
    dwell: bool = False,
) -> int:
    """Requests `first` to `last` (excluded), each an impression and then an example per slot; how many examples.

    They go where their users' keys say, or all into one partition. `turned_round`: what else would be clicked on is
    not, and the other way round. `dwell`: who clicked also stayed for some seconds, longer where they like it.
    """
    for number in range(first, last):
        random = np.random.default_rng(number)
        user, items = f"u{number % 40}", random.integers(0, ITEM_COUNT, SLOTS).tolist()
        shown = [Shown(f"i{item}", k, 0.0, 1.0, "test", False) for k, item in enumerate(items)]
        seen = Impression(SCHEMA_VERSION, f"r{number}", number, user, shown, scene=scene)
        producer.send(IMPRESSIONS, seen, user, partition=partition)
        for k, item in enumerate(items):
            liked = item % 5 == number % 40 % 5
            click = float((random.random() < (0.7 if liked else 0.1)) != turned_round)
            labels = {"click": Label(LabelState.OBSERVED, click), "rating": Label(LabelState.CENSORED)}
            if dwell and click:
                stayed = float((60.0 if liked else 5.0) * random.lognormal(0.0, 0.3))
                labels["dwell"] = Label(LabelState.OBSERVED, stayed)
            producer.send(
                EXAMPLES,
                Example(
                    SCHEMA_VERSION,
                    f"r{number}/{k}",
                    0,
                    number,
                    user,
                    f"i{item}",
                    labels,
                    request_id=f"r{number}",
                    position=k,
                    scene=scene,
                ),
                user,
                partition=partition,
            )
    return (last - first) * SLOTS


def send_stays(producer: kafka.Producer, first: int, last: int, partition: int) -> None:
    """Organic examples `first` to `last` (excluded), one in three with a click and all with seconds of dwell."""
    for number in range(first, last):
        random = np.random.default_rng(number)
        user, item = f"u{number % 40}", int(random.integers(0, ITEM_COUNT))
        stayed = float((60.0 if item % 5 == number % 5 else 5.0) * random.lognormal(0.0, 0.3))
        labels = {"dwell": Label(LabelState.OBSERVED, stayed)}
        if number % 3 == 0:
            labels["click"] = Label(LabelState.OBSERVED, 1.0)
        example = Example(SCHEMA_VERSION, f"s{number}", 0, number, user, f"i{item}", labels, organic=True)
        producer.send(EXAMPLES, example, user, partition=partition)


def scale_of(checkpoint: Checkpoint) -> ScaleState:
    """What a trainer of value tasks kept of their scale."""
    kept = torch.load(io.BytesIO(trainer_state(checkpoint).optimizer), weights_only=True)
    return msgspec.convert(kept["values"], ScaleState)


@contextmanager
def trainer_in_thread(settings: LearningSettings) -> Iterator[Health]:
    """A trainer that runs while the block does, and ends in order; raises what it raised."""
    with in_thread(run, settings, lambda health: "epoch" in health.values) as health:
        yield health


class TrainerProcess:
    """A trainer in a process of its own, whose health is read from a file."""

    def __init__(self, settings: LearningSettings, health: Path) -> None:
        self._health = health
        health.unlink(missing_ok=True)
        self._stop = event()
        self._process = Forked(_train, msgspec.json.encode(settings), str(health), self._stop)

    @property
    def report(self) -> HealthReport | None:
        """What it said last."""
        assert self._process.poll() is None, f"the trainer ended with {self._process.poll()}"
        return read_health(self._health)

    def value(self, name: str) -> float:
        """A value of its last report, 0 before the first."""
        report = self.report
        found = report.values.get(name, 0) if report is not None else 0
        assert not isinstance(found, str)
        return found

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()

    def stop(self) -> None:
        """Asks it to stop and waits until it has."""
        self._stop.set()
        assert self._process.wait(60) == 0


def _train(settings: bytes, health: str, stop: threading.Event) -> None:
    run(msgspec.json.decode(settings, type=LearningSettings), stop, Health(Path(health), interval_s=0.05))
