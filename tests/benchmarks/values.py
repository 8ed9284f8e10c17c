"""What is known of a value before it is told: R2 of predicted dwell in simulated worlds, without servers.

    python -m tests.benchmarks.values [--quick] [--json FILE] [--seeds N]

Users of a world (`closed_world`) also tell how long they stayed. Each learner predicts the seconds of a click's item
before it learns them; R2 is the share of the squared error of the running mean of all seconds so far that is gone, by
thirds of the time, since everybody begins with nothing. Beside it stands what could be had of the same stays:

- `the true mean`: what whoever knows the world expects. What it lacks of 1 is chance.
- `favourites and quality`: the best linear prediction, in hindsight, by whether the item's category is a favourite of
  the user's and by the item's quality. What it lacks of the true mean are everybody's own tastes within a category,
  hidden vectors of which a few labels of each user tell little.
"""

import sys
from itertools import pairwise

import numpy as np
import torch

from online_learning.settings import LearningSettings, TrainerSettings
from online_learning.studies.intervals import t_interval
from online_learning.watching.value_errors import ValueErrors, running_means
from streams.settings import Target, TaskSettings
from tests.benchmarks.closed_world import RATE, SLOTS, Loop
from tests.benchmarks.report import Report, parse
from tests.windows import merged_errors

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="dwell", target=Target.VALUE))
REQUESTS, ORGANIC = 2_700, 5.0
PARTS = ("first third", "second third", "last third")
# Short windows, so that thirds can be put together from them.
SETTINGS = LearningSettings(tasks=TASKS, trainer=TrainerSettings(validation_window=50))


def measure(seed: int, requests: int) -> dict[str, float]:
    """R2 by part and by who predicted, and how many stays were told."""
    loop = Loop(seed, SETTINGS, ORGANIC)
    loop.run(requests)
    end_ms = int(requests / RATE * 1_000)
    last_ms = end_ms + loop.window_ms
    loop.learn(last_ms)
    progressive = loop.learners.progressive
    windows = [w for w in progressive.take_closed(0, 1) + progressive.take_open(0, 1) if w.task == "dwell"]
    ts, seconds, expected, favourite, quality = np.array(loop.stays, dtype=np.float64).T
    means = running_means(seconds, ValueErrors())
    edges = [end_ms * k // len(PARTS) for k in range(len(PARTS))] + [last_ms]
    spans = dict(zip(PARTS, pairwise(edges), strict=True)) | {"whole": (0, edges[-1])}
    out = {"stays": float(len(seconds))}
    for part, (begin, end) in spans.items():
        for learner in progressive.learners:
            mine = [w for w in windows if w.learner == learner and begin <= (w.first_ts + w.last_ts) / 2 < end]
            out[f"{part}: {learner}"] = merged_errors(mine).r2
        among = (ts >= begin) & (ts < end)
        own = np.stack([np.ones(among.sum()), favourite[among], quality[among]], axis=1)
        fitted = own @ np.linalg.lstsq(own, seconds[among], rcond=None)[0]
        for name, said in (("favourites and quality", fitted), ("the true mean", expected[among])):
            out[f"{part}: {name}"] = ValueErrors.of(said, seconds[among], means[among]).r2
    return out


def main() -> int:
    """Run it."""
    options = parse(__doc__ or "", extra={"seeds": "how many worlds, 5"})
    seeds = range(1, 1 + int(options.extra.get("seeds", "2" if options.quick else "5")))
    requests = REQUESTS // 3 if options.quick else REQUESTS
    torch.set_num_threads(1)
    report = Report(
        "Predicted dwell, progressive R2",
        options,
        packages=("torch", "numpy", "river"),
        sizes={"requests": requests, "requests a second": RATE, "slots": SLOTS, "organic acts a second": ORGANIC},
        seeds=tuple(seeds),
    )
    worlds = [measure(seed, requests) for seed in seeds]
    for name in worlds[0]:
        found = t_interval([one[name] for one in worlds])
        report.add(name, found.mean, "", note=f"± {found.half:.3g} over worlds")
    for part in (*PARTS, "whole"):
        for other in ("river", "popularity"):
            more = t_interval([one[f"{part}: online"] - one[f"{part}: {other}"] for one in worlds])
            report.add(f"{part}: online above {other}", more.mean, "", note=f"± {more.half:.3g}")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
