"""What is learned from, in the order that progressive validation needs: catalogue, impressions, then their examples."""

import logging
import threading
import time
from typing import Any, Final

from online_learning.catalogue import Catalogue
from online_learning.inputs import Input, Positions
from online_learning.learners import Learners
from online_learning.settings import LearningSettings
from streams import kafka
from streams.dead_letters import DeadLetters
from streams.documents import deleted_id
from streams.records import Example, Impression, Item, User
from streams.topics import EXAMPLES, IMPRESSIONS, ITEMS, USERS, Topic

logger = logging.getLogger(__name__)

# Impressions predicted at once: small enough that examples do not wait behind them, large enough to be efficient.
_IMPRESSIONS: Final = 32


class Feed:
    """Reads the topics from `positions` on; the catalogue from its beginning, and to its end before anything else."""

    def __init__(
        self,
        settings: LearningSettings,
        learners: Learners,
        catalogue: Catalogue,
        positions: Positions,
        dead_letters: DeadLetters | None,
        stop: threading.Event,
    ) -> None:
        self._settings, self._learners, self._catalogue, self._stop = settings, learners, catalogue, stop
        self._erased_before = positions.get(USERS.name, {})
        self._erased: list[str] = []
        self._erased_at: dict[str, int] = {}
        self._entities = self._input((ITEMS, USERS), {}, None)
        self._entities.read_to_end(self._take_entity, stop)
        self._impressions = self._input((IMPRESSIONS,), positions, None)
        self.examples = self._input((EXAMPLES,), positions, dead_letters)

    @property
    def learned(self) -> dict[int, int]:
        """Per partition of `examples` the next offset."""
        return self.examples.positions[EXAMPLES.name]

    @property
    def positions(self) -> Positions:
        """How far everything is read: what a checkpoint keeps."""
        inputs = (self._entities, self._impressions, self.examples)
        return {topic: dict(at) for one in inputs for topic, at in one.positions.items()}

    @property
    def unreadable(self) -> int:
        """Records that were passed over."""
        return sum(one.unreadable for one in (self._entities, self._impressions, self.examples))

    def follow_catalogue(self) -> list[str]:
        """Takes what is new of items and users; the users erased since the last call, whose rows must go."""
        for record, value in self._entities.poll(0, 1_000):
            self._take_entity(record, value)
        erased, self._erased = self._erased, []
        return erased

    def see_ahead(self) -> None:
        """Predicts impressions that are there, unless their examples would come after they are forgotten."""
        if self._learners.predictions.ahead <= self._settings.trainer.remembered_examples // 2:
            self._see_impressions(0)

    def next(self, timeout_ms: float) -> list[Example] | None:
        """The next batch of examples, each counted, its impression predicted, without those of users erased since; None
        where none came within `timeout_ms`."""
        batch = list(self.examples.poll(timeout_ms, self._settings.trainer.max_batch))
        if not batch:
            return None
        examples = self.living([example for _, example in batch])
        if self._learners.unseen(examples):
            self._catch_up(examples, sorted({record.partition for record, _ in batch}))
        counts = self._learners.counters.examples
        for record, _ in batch:
            counts[record.partition] = counts.get(record.partition, 0) + 1
        return examples

    def living(self, examples: list[Example]) -> list[Example]:
        """Without those of users erased since: what is read again (a restart, a backfill) must not undo an erasure."""
        living = [one for one in examples if self._lives(one)]
        self._learners.counters.erased += len(examples) - len(living)
        return living

    def close(self) -> None:
        """Ends the connections."""
        for reader in (self._entities, self._impressions, self.examples):
            reader.close()

    def _see_impressions(self, timeout_ms: float) -> None:
        found = (seen for _, seen in self._impressions.poll(timeout_ms, _IMPRESSIONS))
        # Of what is shown is learned: rows of a user that is erased since must not come back.
        self._learners.see([seen for seen in found if self._lives(seen)], time.time_ns() // 1_000_000)

    def _lives(self, one: Example | Impression) -> bool:
        """Whether its user was not erased since."""
        return one.ts > self._erased_at.get(one.user, -1)

    def _catch_up(self, examples: list[Example], partitions: list[int]) -> None:
        """Reads impressions until these examples' are predicted, at most up to their present end, so that a request is
        predicted before a label of it is learned.

        Impressions and examples of a user share a partition number, and an impression is written before its examples.
        Under load this is the only place that reads them: predictions made far ahead would be those of an older model.
        """
        try:
            ends = self._impressions.ends(partitions)
        except kafka.BrokerAway as error:
            logger.warning("impressions could not be read to their end: %s", error)
            return
        while self._learners.unseen(examples) and not self._impressions.reached(ends) and not self._stop.is_set():
            self._see_impressions(100)

    def _take_entity(self, record: Any, value: Item | User | None) -> None:
        if isinstance(value, Item):
            self._catalogue.put_item(value.item, value)
        elif isinstance(value, User):
            self._catalogue.put_user(value.user, value)
        elif name := deleted_id(record):
            self._delete(name, record)

    def _delete(self, name: str, record: Any) -> None:
        if record.topic == ITEMS.name:
            self._catalogue.put_item(name, None)
            return
        self._catalogue.put_user(name, None)
        self._erased_at[name] = record.timestamp
        # A deletion that the checkpoint knows must not hit a user who has come back since.
        if record.offset >= self._erased_before.get(record.partition, 0):
            self._erased.append(name)

    def _input(self, topics: tuple[Topic, ...], positions: Positions, dead_letters: DeadLetters | None) -> Input:
        return Input(self._settings.kafka, topics, positions, dead_letters, self._stop)
