"""Keeping: a place that is slow or full neither stops the learning nor makes anybody believe that it kept something."""

import re
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from online_learning.catalogue import Catalogue
from online_learning.checkpoint.checkpoint import CheckpointError
from online_learning.checkpoint.storage import Draft, LocalStorage
from online_learning.keeper import Keeper
from online_learning.learners import Learners
from online_learning.settings import FieldSettings, LearningSettings, ModelSettings, RowSettings, TrainerSettings
from online_learning.table.settings import FullPolicy, OptimizerKind
from online_learning.updates.position import LogPosition
from streams.settings import KafkaSettings, TaskSettings
from tests.stacks import wait_until

SETTINGS = LearningSettings(
    # Nobody listens there: what is kept is no broker's concern.
    kafka=KafkaSettings(bootstrap="127.0.0.1:9"),
    tasks=(TaskSettings(name="click", shown_is_negative=True),),
    model=ModelSettings(dim=2, hidden=(4,)),
    trainer=TrainerSettings(remembered_examples=10),
)


class Published:
    """A publisher of which all is acknowledged."""

    epoch = 1
    position = LogPosition()

    def poll(self) -> None: ...


class SlowStorage(LocalStorage):
    """A place that takes nothing until `open` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.open = threading.Event()

    def draft(self, number: int) -> Draft:
        self.open.wait(60)
        return super().draft(number)


@pytest.fixture
def learners() -> Learners:
    return Learners(SETTINGS, Catalogue())


def keeper(folder: Path) -> Keeper:
    return Keeper(SETTINGS, str(folder))


def learn(these: Learners, key: int) -> None:
    """Something that the next increment has to hold."""
    these.online.table.find_or_insert(np.array([key], np.uint64), np.ones(1, np.uint16), 0, key)


def _renamed(field: str, attribute: str) -> tuple[FieldSettings, ...]:
    """The default fields, one of which reads another attribute."""
    return tuple(
        msgspec.structs.replace(one, attribute=attribute) if one.name == field else one
        for one in ModelSettings().fields
    )


def at(offset: int) -> dict[str, dict[int, int]]:
    return {"examples": {0: offset}}


def test_a_save_under_way_is_not_waited_for(tmp_path: Path, learners: Learners) -> None:
    one = keeper(tmp_path)
    slow = one._store.storage = SlowStorage(tmp_path)
    try:
        one.save(learners, Published(), at(1))
        learn(learners, 2)
        one.save(learners, Published(), at(2))
        assert one.number == 0
    finally:
        slow.open.set()
    one.save(learners, Published(), at(2), wait=True)
    one.close()
    assert one.number == 2
    again = Learners(SETTINGS, Catalogue())
    assert keeper(tmp_path).restore(again).offsets == at(2)
    assert again.online.table.digest() == learners.online.table.digest()


def test_a_failed_save_is_said_until_one_succeeds_and_made_good_though_nothing_new_was_read(
    tmp_path: Path, learners: Learners
) -> None:
    folder, aside = tmp_path / "kept", tmp_path / "aside"
    one = keeper(folder)
    one.save(learners, Published(), at(1), wait=True)
    assert (one.number, one.failure) == (1, "")
    folder.rename(aside)
    folder.write_text("no folder")
    learn(learners, 2)
    one.save(learners, Published(), at(2))
    wait_until(lambda: not one._store.saving, 60, "the save has failed")
    one.save(learners, Published(), at(2))
    assert "no checkpoint was saved" in one.failure
    # What is durable is what was: nobody may take a failed save for a new checkpoint.
    assert one.number == 1
    one.close()
    folder.unlink()
    aside.rename(folder)
    one.save(learners, Published(), at(2))
    wait_until(lambda: not one._store.saving, 60, "it is saved")
    one.save(learners, Published(), at(2))
    assert (one.number, one.failure) == (2, "")
    assert keeper(folder).restore(Learners(SETTINGS, Catalogue())).offsets == at(2)


def test_nothing_new_is_not_kept_again(tmp_path: Path, learners: Learners) -> None:
    one = keeper(tmp_path)
    for _ in range(3):
        one.save(learners, Published(), at(1))
        one.close()
    assert one.number == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": RowSettings(max_rows=2, full=FullPolicy.REFUSE)}, "does not fit: `max_rows` == 2"),
        ({"sparse_optimizer": OptimizerKind.SGD}, "`optimizer` == 'sgd', must be 'adagrad'"),
        ({"model": ModelSettings(dim=3, hidden=(4,))}, "`dim` == 4, must be 3"),
        ({"model": ModelSettings(dim=2, hidden=(5,))}, "`layer.0.bias` has shape"),
        (
            {"model": ModelSettings(dim=2, hidden=(4,), fields=_renamed("genres", "tags"))},
            "'genres (item attribute tags)'",
        ),
        ({"tasks": (TaskSettings(name="buy", shown_is_negative=True),)}, "with the tasks"),
    ],
)
def test_a_checkpoint_that_the_settings_cannot_take_is_refused_in_words(
    tmp_path: Path, learners: Learners, change: dict[str, object], message: str
) -> None:
    one = keeper(tmp_path)
    for key in range(1, 6):
        learn(learners, key)
    one.save(learners, Published(), at(1), wait=True)
    other = msgspec.structs.replace(SETTINGS, **change)
    with pytest.raises(CheckpointError, match=re.escape(message)) as refusal:
        Keeper(other, str(tmp_path)).restore(Learners(other, Catalogue()))
    # Whoever is refused is told what can be done.
    assert str(refusal.value).endswith(", or begin anew in another `checkpoint_dir`")


def test_a_manifest_of_another_format_is_named_as_such(tmp_path: Path, learners: Learners) -> None:
    one = keeper(tmp_path)
    one.save(learners, Published(), at(1), wait=True)
    draft = one._store.storage.draft(2)
    draft.commit(msgspec.json.encode({"format": 99, "number": 2}))
    again = keeper(tmp_path)
    assert again.restore(Learners(SETTINGS, Catalogue())).offsets == at(1)
    assert [(broken.number, broken.reason) for broken in again._store.broken] == [
        (2, "format 99 is not 1, which this release reads")
    ]
