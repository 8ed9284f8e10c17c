"""What is left when all has come to rest, against what should be."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from infra.chaos.arena import Arena
from online_learning.checkpoint.checkpoint import Checkpoint
from online_learning.labels import is_learned
from online_learning.learner import TABLE
from online_learning.models.fields import FieldEncoder
from online_learning.models.scorers.two_tower import tower_keys
from online_learning.state import dense_parameters, meta_of
from online_learning.table.digest import digest_rows
from online_learning.updates.frames import RowEncoding, as_sent
from serving.shared.mirror import Mirror
from streams.logs import ends_of, raw_records, read_all, read_list, read_stamped
from streams.records import Example, LabelState
from streams.reference import expected_examples, observed
from streams.topics import ACTIONS, DEAD_LETTERS, EVENTS, EXAMPLES, IMPRESSIONS

_SHOWN: Final = 3
# The supervisor's words (`infra.local.managed`).
_BY_ITSELF, _KILLED = " ended with exit code ", " was killed by "


class Check(msgspec.Struct, frozen=True):
    """One comparison: what of `compared` things was expected, and what is wrong with it (nothing: `wrong` is empty)."""

    name: str
    compared: str
    wrong: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return not self.wrong


def endings(said: str) -> Check:
    """No process ended by itself, as far as the supervisor's log `said`: who falls over and recovers loses nothing, and
    would else not be noticed."""
    lines = said.splitlines()
    wrong = [line for line in lines if _BY_ITSELF in line]
    killed = sum(_KILLED in line for line in lines)
    return Check("no process ended by itself", f"{killed} kills", "\n".join(wrong))


def rows(checkpoint: Checkpoint, mirror: Mirror, encoding: RowEncoding) -> Check:
    """Every row of the replica is the trainer's, byte for byte, as rows travel in this encoding."""
    arrays = checkpoint.tables[TABLE].arrays
    keys = np.asarray(arrays["keys"], np.uint64)
    sent = as_sent(np.asarray(arrays["values"], np.float32), encoding)
    wanted = digest_rows(keys, sent)
    found = mirror.table.digest()
    compared = f"{len(keys)} rows, digest {wanted:016x}"
    if found == wanted:
        return Check("replica rows equal the trainer's", compared)
    theirs, values = mirror.table.export()
    return Check("replica rows equal the trainer's", compared, _differ(keys, sent, theirs, values))


def _differ(keys: NDArray[Any], values: NDArray[Any], theirs: NDArray[Any], their_values: NDArray[Any]) -> str:
    """Which rows differ, for whoever looks for the reason."""
    mine = {int(key): row.tobytes() for key, row in zip(keys, values, strict=True)}
    other = {int(key): row.tobytes() for key, row in zip(theirs, their_values, strict=True)}
    missing, extra = mine.keys() - other.keys(), other.keys() - mine.keys()
    changed = [key for key in mine.keys() & other.keys() if mine[key] != other[key]]
    return f"{len(missing)} rows missing at the replica, {len(extra)} too many, {len(changed)} different"


def dense(checkpoint: Checkpoint, mirror: Mirror) -> Check:
    """The replica's dense parameters are the trainer's."""
    wanted, found = dense_parameters(checkpoint), mirror.dense().parameters
    wrong = [name for name, array in wanted.items() if name not in found or not np.array_equal(array, found[name])]
    compared = f"{len(wanted)} arrays"
    return Check("dense parameters are equal", compared, ", ".join(sorted(wrong)))


def deleted(arena: Arena, checkpoint: Checkpoint, mirror: Mirror, erased: list[str]) -> Check:
    """Rows of erased users are gone, at the trainer's and at the replica's."""
    encoder = FieldEncoder(arena.settings.learning.model)
    keys = np.concatenate([np.empty(0, np.uint64), *(encoder.id_keys("user", user) for user in erased)])
    keys = np.concatenate([keys, tower_keys(keys)])
    _, found = mirror.table.lookup(keys)
    places = (
        ("replica", found),
        ("trainer", np.isin(keys, np.asarray(checkpoint.tables[TABLE].arrays["keys"], np.uint64))),
    )
    there = [f"{int(there.sum())} are at the {place}" for place, there in places if there.any()]
    return Check("deleted rows are gone", f"{len(erased)} erased users", ", ".join(there))


def learned(arena: Arena, checkpoint: Checkpoint, examples: dict[int, list[tuple[int, Example]]]) -> Check:
    """Each example was learned exactly once, as the offsets count it; so were its labels."""
    counters, arm = meta_of(checkpoint).counters, arena.settings.learning.trainer.arm
    wrong = []
    for partition, records in sorted(examples.items()):
        counted, at = counters.examples.get(partition, 0), checkpoint.offsets[EXAMPLES.name].get(partition, 0)
        if counted != len(records):
            wrong.append(f"partition {partition}: {counted} counted, {len(records)} on the topic")
        if records and at != records[-1][0] + 1:
            wrong.append(f"partition {partition}: at offset {at}, the last example is at {records[-1][0]}")
    ours = [
        one for records in examples.values() for _, one in records if is_learned(one.arms, organic=one.organic, arm=arm)
    ]
    teaching, labels = new_labels(ours)
    # Whoever is erased comes once, with one label: it is learned, or passed over because the erasure was known first.
    if counters.learned + counters.erased + counters.refused != teaching:
        wrong.append(f"{counters.learned} learned and {counters.erased} of erased users, {teaching} have a new label")
    if sum(counters.labels.values()) + counters.erased != labels:
        wrong.append(f"{sum(counters.labels.values())} labels learned, {labels} are to be learned")
    total = sum(map(len, examples.values()))
    compared = f"{total} examples, {teaching} with {labels} labels to learn ({counters.erased} of erased users)"
    return Check("each example learned once", compared, "; ".join(wrong))


def new_labels(examples: Iterable[Example]) -> tuple[int, int]:
    """(examples with something new to learn, labels that are new), of all revisions in the order of the log: a label is
    new when it is first observed, or observed to be another one."""
    known: dict[tuple[str, str], bool] = {}
    teaching = total = 0
    for example in examples:
        new = 0
        for task, label in example.labels.items():
            if label.state is LabelState.OBSERVED:
                value = label.value >= 0.5
                new += known.get((example.example_id, task)) is not value
                known[example.example_id, task] = value
        teaching += new > 0
        total += new
    return teaching, total


def joined(arena: Arena, examples: Iterable[Example]) -> Check:
    """The join's output is the reference join's: nothing lost, nothing doubled, nothing else."""
    settings = arena.settings.streams
    got = Counter(map(observed, examples))
    impressions, actions = read_stamped(settings.kafka, IMPRESSIONS), read_all(settings.kafka, ACTIONS)
    wanted = Counter(expected_examples(impressions, actions, settings))
    doubled = sum(count - 1 for count in got.values() if count > 1)
    missing, extra = wanted - got, got - wanted
    wrong = []
    if missing or extra:
        some = [str(one) for one in [*missing][:_SHOWN]] + [f"not {one}" for one in [*extra][:_SHOWN]]
        wrong.append(f"{missing.total()} missing, {extra.total()} unexpected ({doubled} doubled): {'; '.join(some)}")
    logs = sum(map(len, impressions.values())), sum(map(len, actions.values()))
    compared = f"{got.total()} examples of {logs[0]} impressions and {logs[1]} actions, {doubled} doubled"
    return Check("the join equals the reference join", compared, "; ".join(wrong))


def taken(arena: Arena, sent: int) -> Check:
    """Every event that was acknowledged is on its topic once, and was taken in once."""
    kafka = arena.settings.kafka
    events, actions = len(read_list(kafka, EVENTS)), len(read_list(kafka, ACTIONS))
    refused = sum(letter.topic == EVENTS.name for letter in read_list(kafka, DEAD_LETTERS))
    wrong = []
    if events != sent:
        wrong.append(f"{events} events on the topic")
    if actions != events or refused:
        wrong.append(f"{actions} actions, {refused} dead letters")
    return Check("events taken in once", f"{sent} events sent", "; ".join(wrong))


def read_examples(arena: Arena) -> dict[int, list[tuple[int, Example]]]:
    """(offset, example) of every committed example, by partition."""
    ends = ends_of(arena.settings.kafka, [EXAMPLES.name])
    found: dict[int, list[tuple[int, Example]]] = {p.partition: [] for p in ends}
    for record in raw_records(arena.settings.kafka, ends):
        found[record.partition].append((record.offset, EXAMPLES.codec.decode(record.value)))
    return found
