"""Two trainers at once, each under a supervisor of its own: the older one is fenced and stays away."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from infra.chaos.arena import Arena
from infra.chaos.compare import Check
from infra.chaos.plan import CONFIG
from infra.chaos.recovery import Watch

_WAIT_S: Final = 120.0
# Frames of the newer one, meanwhile: a supervisor that starts what ended does so within a tenth of a second.
_FRAMES: Final = 40


def run(arena: Arena, watch: Watch, folder: Path, tell: Callable[[str], None]) -> list[Check]:
    """A second trainer, on the same checkpoints, takes over; then the first is asked back, as `freshet up` does.

    Raises Failed.
    """
    checkpoints = arena.settings.learning.trainer.checkpoint_dir
    config = CONFIG.format(checkpoints=checkpoints) + f'\n[kafka]\nbootstrap = "{arena.settings.kafka.bootstrap}"\n'
    second = Arena(folder, config, ("trainer",))
    try:
        second.start()
        checks = [_fenced(arena, second, watch, "the older trainer is fenced", tell)]
        arena.start()
        checks.append(_fenced(second, arena, watch, "the operator's word brings it back", tell))
    finally:
        second.stop()
    return checks


def _fenced(older: Arena, newer: Arena, watch: Watch, name: str, tell: Callable[[str], None]) -> Check:
    older.wait(lambda: older.process("trainer").state == "fenced", _WAIT_S, "the older trainer is fenced", "trainer")
    seen, epoch = older.process("trainer"), int(newer.value("trainer", "epoch"))
    newer.wait(lambda: watch.lineage.epoch == epoch, _WAIT_S, f"frames of epoch {epoch} are applied", "trainer")
    begun = watch.lineage.sequence
    newer.wait(
        lambda: watch.lineage.epoch != epoch or watch.lineage.sequence >= begun + _FRAMES,
        _WAIT_S,
        f"{_FRAMES} more frames of epoch {epoch}",
        "trainer",
    )
    after = older.process("trainer")
    tell(f"{name}: {after.reason}")
    wrong = []
    if not after.reason.startswith(f"fenced by epoch {epoch}:"):
        wrong.append(f"its reason is {after.reason!r}, the newer one's epoch is {epoch}")
    if (after.state, after.restarts, after.pid) != ("fenced", seen.restarts, None):
        wrong.append(f"it is {after.state} after {after.restarts - seen.restarts} restarts")
    if watch.lineage.epoch != epoch:
        wrong.append(f"epoch {watch.lineage.epoch} follows epoch {epoch}")
    return Check(name, f"fenced by epoch {epoch}, {_FRAMES} frames of it later still down", "; ".join(wrong))
