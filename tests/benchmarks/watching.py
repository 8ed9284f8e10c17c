"""What it costs to watch the model learn: progressive validation, drift, calibration and baselines beside the learning.

    python -m tests.benchmarks.watching [--quick] [--json FILE]

A stationary stream of requests with clicks in ten scenes goes through the trainer's learners, as it does live but
without Kafka. Every part's share is of all CPU time spent in `Learners`.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from online_learning.catalogue import Catalogue
from online_learning.learners import Learners
from online_learning.settings import LearningSettings
from streams.records import SCHEMA_VERSION, Example, Impression, Item, Label, LabelState, Shown
from streams.settings import StreamsSettings
from tests.benchmarks.report import Report, parse

SLOTS, USERS, ITEMS, SCENES = 10, 2_000, 1_000, 10
SEED = 3
# Of the whole; so that nobody is ever tempted to look away.
MOST_PERCENT = 15.0


def requests(n: int) -> tuple[list[Impression], list[Example]]:
    """Impressions, and an example per slot with its click."""
    random = np.random.default_rng(SEED)
    seen, examples = [], []
    for number in range(n):
        user, scene = f"u{random.integers(USERS)}", f"s{random.integers(SCENES)}"
        items = [f"i{item}" for item in random.integers(0, ITEMS, SLOTS)]
        shown = [Shown(item, k, 0.0, 1.0, "test", False) for k, item in enumerate(items)]
        seen.append(Impression(SCHEMA_VERSION, f"r{number}", number, user, shown, scene=scene))
        for k, item in enumerate(items):
            label = Label(LabelState.OBSERVED, float(random.random() < 0.1))
            labels = {"click": label, "rating": Label(LabelState.CENSORED)}
            name = f"r{number}/{k}"
            examples.append(
                Example(SCHEMA_VERSION, name, 0, number, user, item, labels, f"r{number}", position=k, scene=scene)
            )
    return seen, examples


class Watched:
    """Adds up the CPU time of methods."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)

    def put(self, owner: Any, method: str, part: str) -> None:
        """Counts what `owner.method` takes under `part`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return inner(*arguments, **named)
            finally:
                self.spent_s[part] += time.process_time() - start

        setattr(owner, method, timed)


def main() -> int:
    """Run it; 1 where the bar was missed."""
    options = parse(__doc__ or "")
    n = 1_000 if options.quick else 6_000
    batch = LearningSettings().trainer.max_batch
    report = Report(
        "watching the model learn",
        options,
        packages=("numpy", "torch", "river"),
        sizes={"requests": n, "slots": SLOTS, "users": USERS, "items": ITEMS, "scenes": SCENES, "batch": batch},
        seeds=(SEED,),
    )
    torch.set_num_threads(1)
    catalogue = Catalogue()
    for number in range(ITEMS):
        catalogue.put_item(f"i{number}", Item(item=f"i{number}", attributes={"category": f"c{number % 20}"}))
    learners = Learners(LearningSettings(tasks=StreamsSettings().tasks), catalogue)
    seen, examples = requests(n)
    warm = len(examples) // 10
    watched = Watched()

    def run(first: int, last: int) -> None:
        for start in range(first, last, batch):
            learners.see(seen[start // SLOTS : (start + batch) // SLOTS], start)
            learners.learn_rest(1)
            learners.learn(examples[start : start + batch], start, 1)

    run(0, warm)
    watched.put(learners.progressive, "add", "progressive validation")
    watched.put(learners.drift, "add", "drift")
    watched.put(learners.calibration, "add", "calibration")
    for other in learners.baselines.all:
        watched.put(other, "predict", f"baseline {other.name}")
        watched.put(other, "learn", f"baseline {other.name}")
    watched.put(learners, "see", "all")
    watched.put(learners, "learn_rest", "all")
    watched.put(learners, "learn", "all")
    run(warm, len(examples))
    whole_s = watched.spent_s.pop("all")
    report.add("learning and watching", 1e6 * whole_s / (len(examples) - warm), "us/example", note="CPU")
    for part, spent_s in sorted(watched.spent_s.items()):
        report.add(part, 100 * spent_s / whole_s, "%")
    watching_s = sum(s for part, s in watched.spent_s.items() if not part.startswith("baseline"))
    report.add("watching, without baselines", 100 * watching_s / whole_s, "%", at_most=MOST_PERCENT)
    report.add("alarms on this stationary stream", len(learners.drift.take_begun()), "", equals=0)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
