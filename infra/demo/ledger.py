"""What is in Kafka, read independently of everything that wrote it."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from streams.logs import ends_of, raw_records
from streams.records import Action, Impression
from streams.reference import Expected, expected_examples, observed
from streams.settings import StreamsSettings
from streams.topics import ACTIONS, DEAD_LETTERS, EVENTS, EXAMPLES, IMPRESSIONS

TOPICS = (EVENTS, ACTIONS, IMPRESSIONS, EXAMPLES, DEAD_LETTERS)

# What is finally known of an example: its labels as (task, state, value), and a hash of what was served.
Final = tuple[tuple[tuple[str, str, float], ...], int]


class Ledger:
    """Follows the logs from their beginning; `counts` maps a topic's name to its committed records."""

    def __init__(self, settings: StreamsSettings) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._impressions: defaultdict[int, list[tuple[Impression, int]]] = defaultdict(list)
        self._actions: defaultdict[int, list[Action]] = defaultdict(list)
        self._examples: list[Expected] = []
        self._read_to: dict[TopicPartition, int] = {}

    def read(self) -> None:
        """Reads on to what is now the end of every log; raises BrokerAway."""
        ends = ends_of(self._settings.kafka, [topic.name for topic in TOPICS])
        for record in raw_records(self._settings.kafka, ends, self._read_to):
            self.counts[record.topic] += 1
            self._keep(record)
        self._read_to = ends

    @property
    def examples(self) -> dict[str, Final]:
        """What the join made: every example's last revision, by example id."""
        return final(self._examples)

    @property
    def repeated(self) -> int:
        """Revisions that are there more than once: 0 unless a batch came out twice."""
        return len(self._examples) - len({(e.example_id, e.revision) for e in self._examples})

    def expected(self) -> dict[str, Final]:
        """What the join should have made, by the reference join over the whole logs."""
        return final(expected_examples(self._impressions, self._actions, self._settings))

    def _keep(self, record: ConsumerRecord) -> None:
        topic, partition, value = record.topic, record.partition, record.value
        if topic == ACTIONS.name:
            self._actions[partition].append(ACTIONS.codec.decode(value))
        elif topic == IMPRESSIONS.name:
            self._impressions[partition].append((IMPRESSIONS.codec.decode(value), record.timestamp))
        elif topic == EXAMPLES.name:
            self._examples.append(observed(EXAMPLES.codec.decode(value)))


def final(examples: Iterable[Expected]) -> dict[str, Final]:
    """The last revision of every example."""
    newest: dict[str, Expected] = {}
    for example in examples:
        known = newest.get(example.example_id)
        if known is None or known.revision < example.revision:
            newest[example.example_id] = example
    return {example_id: (example.labels, example.served) for example_id, example in newest.items()}
