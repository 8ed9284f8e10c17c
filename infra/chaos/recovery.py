"""How long the way from an event to a reader was interrupted: watched where readers look, in shared memory."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from infra.chaos.compare import Check
from serving.shared.head import HeadReader, Lineage

_LOOK_S: Final = 0.01

Ends = Mapping[int, int]


class Outage(msgspec.Struct):
    """One kill and what followed: `ends` are the ends of `examples` right after it; `next_frame_s` the time until a
    frame was applied that learned from an example behind them, `everywhere_s` until that held of every partition.

    None: not yet, or `interrupted` by the next kill. `amid`: who had died before and was not back.
    """

    victims: tuple[str, ...]
    why: str
    at_s: float
    at_ms: int
    ends: dict[int, int]
    next_frame_s: float | None = None
    everywhere_s: float | None = None
    interrupted: bool = False
    amid: tuple[str, ...] = ()

    @property
    def who(self) -> str:
        """Who died, and whether others were still away."""
        return "+".join(self.victims) + (" amid another" if self.amid else "")

    def look(self, lineage: Lineage, now_s: float) -> None:
        """Takes note of a frame that readers can see."""
        # A frame made before the kill may be applied after it.
        if lineage.created_at < self.at_ms:
            return
        on = [lineage.learned.get(partition, 0) > end for partition, end in self.ends.items()]
        if self.next_frame_s is None and any(on):
            self.next_frame_s = now_s - self.at_s
        if self.everywhere_s is None and all(on):
            self.everywhere_s = now_s - self.at_s


class Watch:
    """Looks at the lineage a hundred times a second while the block runs."""

    def __init__(self, shm: Path) -> None:
        self._reader = HeadReader(shm)
        self._outages: list[Outage] = []
        self._open: list[Outage] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._backwards: list[str] = []
        self._epochs: set[int] = set()
        self.lineage = Lineage()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def outages(self) -> list[Outage]:
        """All that was killed so far."""
        with self._lock:
            return list(self._outages)

    def killed(self, victims: tuple[str, ...], why: str, at_s: float, at_ms: int, ends: Ends) -> Outage:
        """Begins to time a recovery; one that was not over is interrupted: it is timed from this kill on."""
        outage = Outage(victims, why, at_s, at_ms, dict(ends))
        with self._lock:
            for earlier in self._open:
                earlier.interrupted = earlier.next_frame_s is None
                if earlier.interrupted:
                    outage.amid = (*earlier.amid, *earlier.victims)
            self._outages.append(outage)
            self._open = [outage]
        return outage

    def look(self, lineage: Lineage, now_s: float) -> None:
        """Takes note of what readers see; of epoch 0 they see nothing."""
        if lineage.epoch:
            if lineage.epoch < self.lineage.epoch:
                self._backwards.append(f"epoch {lineage.epoch} after epoch {self.lineage.epoch}")
            self._epochs.add(lineage.epoch)
            self.lineage = lineage
        with self._lock:
            for outage in self._open:
                outage.look(lineage, now_s)
            self._open = [outage for outage in self._open if outage.everywhere_s is None]

    def onward(self) -> Check:
        """No frame of an older epoch was applied after one of a newer: of a trainer that had been taken over from."""
        return Check("no epoch after a newer one", f"{len(self._epochs)} epochs", ", ".join(self._backwards))

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._reader.refresh()
            self.look(self._reader.lineage(), time.monotonic())
