"""A trainer killed with -9 at any step of a save finds its newest checkpoint intact, and no debris grows."""

import signal
from pathlib import Path

import pytest

from online_learning.checkpoint.store import CheckpointStore
from online_learning.table.table import Table
from streams import failpoints
from tests.forked import Forked
from tests.unit.online_learning.checkpoint.test_store import SETTINGS, Trainer

pytestmark = pytest.mark.faults

STEPS = (
    "trainer.checkpoint-folder-made",
    "trainer.checkpoint-table-written",
    "trainer.checkpoint-dense-written",
    "trainer.checkpoint-manifest-written",
    "trainer.checkpoint-checksum-written",
    "trainer.checkpoint-folder-synced",
    "trainer.checkpoint-renamed",
    "trainer.checkpoint-saved",
    "trainer.checkpoint-pruned",
)
# After the rename the checkpoint can be read, whether or not the parent's fsync came to pass.
VISIBLE = ("trainer.checkpoint-renamed", "trainer.checkpoint-saved", "trainer.checkpoint-pruned")


def save_until_killed(folder: Path, saved: int, step: str) -> None:
    """Saves that often, and then once more with a failpoint at that step."""
    trainer = Trainer(folder, keep=2, max_increments=3)
    for _ in range(saved):
        trainer.learn_and_save()
    failpoints.arm(failpoints.parse(step))
    trainer.learn_and_save()


@pytest.mark.parametrize("saved", [2, 4])  # the next save is an increment; a whole one that also prunes
@pytest.mark.parametrize("step", STEPS)
def test_a_trainer_killed_in_a_save_loses_at_most_that_save(tmp_path: Path, step: str, saved: int) -> None:
    log = tmp_path.with_name(f"{tmp_path.name}.log")
    code = Forked(save_until_killed, tmp_path, saved, step, log=log).wait(120)
    assert code == -signal.SIGKILL, log.read_text()

    twin = Trainer(tmp_path / "twin")
    store = CheckpointStore(tmp_path)
    loaded = store.load_newest()
    assert loaded is not None
    assert loaded.sequence == saved + (step in VISIBLE)
    assert store.broken == []
    for _ in range(loaded.sequence):
        twin.learn()
    table = Table.restore(SETTINGS, loaded.tables["sparse"])
    assert table.digest() == twin.table.digest()

    # The restarted trainer saves on, and what the dead one left behind is gone.
    twin.table, twin.store = table, store
    twin.learn_and_save()
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]
    loaded = CheckpointStore(tmp_path).load_newest()
    assert loaded is not None
    twin.check_equal(loaded)
