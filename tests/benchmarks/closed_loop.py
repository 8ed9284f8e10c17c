"""How fast the online model learns a simulated world, without servers, and what a setting is worth there.

    python -m tests.benchmarks.closed_loop [--quick] [--json FILE] [--seeds N] [--compare VARIANT,...] [--organic N]
        [--retrieve K] [--window S] [--kept R]

Users of a world (`closed_world`) ask, half of them the online model, half popularity. Every variant of `--compare` sees
the same worlds: its figure is the difference in CTR from the default settings, paired by seed.

The online model ranks all of the world's few items, or, with `--retrieve K`, what serving would have it rank of many:
the K nearest by the settings' retrieval and the K most popular. Then it is also said how many of the ten best items for
a user, as only the world knows them, are among the K nearest.
"""

from collections.abc import Mapping

import numpy as np
import torch
from msgspec import structs

from online_learning.settings import (
    LearningSettings,
    ModelSettings,
    NegativesSettings,
    RetrievalSettings,
    TrainerSettings,
)
from online_learning.studies.intervals import t_interval
from streams.settings import JoinSettings, TaskSettings
from tests.benchmarks.closed_world import RATE, SLOTS, Loop
from tests.benchmarks.report import Report, parse

TASKS = (TaskSettings(name="click", shown_is_negative=True), TaskSettings(name="rating"))
REQUESTS = 2_700

DEFAULTS = LearningSettings(tasks=TASKS)
VARIANTS: Mapping[str, LearningSettings] = {
    "rate-0.02": LearningSettings(tasks=TASKS, sparse_learning_rate=0.02),
    "rate-0.1": LearningSettings(tasks=TASKS, sparse_learning_rate=0.1),
    "rate-0.2": LearningSettings(tasks=TASKS, sparse_learning_rate=0.2),
    "no-fake-negatives": LearningSettings(tasks=TASKS, trainer=TrainerSettings(fake_negatives=False)),
    "no-negatives": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=0)),
    "negatives-1": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=1)),
    "negatives-16": LearningSettings(tasks=TASKS, negatives=NegativesSettings(per_positive=16)),
    "dcn_v2": LearningSettings(tasks=TASKS, model=ModelSettings(name="dcn_v2")),
    "logistic_regression": LearningSettings(tasks=TASKS, model=ModelSettings(name="logistic_regression")),
    "two_tower": LearningSettings(tasks=TASKS, retrieval=RetrievalSettings(name="two_tower")),
    "two_tower-layers": LearningSettings(tasks=TASKS, retrieval=RetrievalSettings(name="two_tower", hidden=(32,))),
}


def measure(seed: int, settings: LearningSettings, requests: int, organic: float, retrieve: int) -> dict[str, float]:
    """CTR of both arms over the whole and over the last third, and what was possible; the recall of retrieval."""
    loop, out = Loop(seed, settings, organic, retrieve), {}
    of = {f"CTR, {name}": ctr for name, ctr in loop.run(requests).items()}
    for name, figures in (of | ({f"recall@{retrieve}, online": loop.found} if retrieve else {})).items():
        out[name] = float(np.mean(figures))
        out[f"{name}, last third"] = float(np.mean(figures[-len(figures) // 3 :]))
    return out


def main() -> None:
    options = parse(
        __doc__ or "",
        extra={
            "seeds": "how many worlds, 5",
            "compare": f"variants beside the defaults: {', '.join(VARIANTS)}",
            "window": "seconds until the join's negatives come, 30",
            "kept": "the share of negatives that the join keeps, 1",
            "organic": "acts a second that no request led to, 5",
            "retrieve": "candidates of each source that the online model ranks; 0, the default: all items",
        },
    )
    chosen = [name for name in options.extra.get("compare", "").split(",") if name]
    if unknown := set(chosen) - set(VARIANTS):
        raise SystemExit(f"--compare {', '.join(sorted(unknown))}: must be of {', '.join(VARIANTS)}")
    organic, retrieve = float(options.extra.get("organic", "5")), int(options.extra.get("retrieve", "0"))
    join = JoinSettings(
        window_s=float(options.extra.get("window", DEFAULTS.join.window_s)),
        negative_rate=float(options.extra.get("kept", DEFAULTS.join.negative_rate)),
    )
    seeds = range(1, 1 + int(options.extra.get("seeds", "2" if options.quick else "5")))
    requests = REQUESTS // 3 if options.quick else REQUESTS
    torch.set_num_threads(1)
    report = Report(
        "closed loop",
        options,
        packages=("torch", "numpy"),
        sizes={
            "requests": requests,
            "requests a second": RATE,
            "slots": SLOTS,
            "window s": join.window_s,
            "share of negatives kept": join.negative_rate,
            "organic acts a second": organic,
            "candidates of a source": retrieve,
        },
        seeds=tuple(seeds),
    )

    def over_seeds(settings: LearningSettings) -> list[dict[str, float]]:
        told = structs.replace(settings, join=join)
        return [measure(seed, told, requests, organic, retrieve) for seed in seeds]

    default = over_seeds(DEFAULTS)
    for name in default[0]:
        found = t_interval([one[name] for one in default])
        report.add(name, found.mean, "", note=f"± {found.half:.4f} over worlds")
    for variant in chosen:
        others = over_seeds(VARIANTS[variant])
        for name in (name for name in default[0] if "online" in name):
            change = t_interval([a[name] - b[name] for a, b in zip(others, default, strict=True)])
            report.add(f"{name}: {variant} less default", change.mean, "", note=f"± {change.half:.4f}")
    raise SystemExit(report.finish())


if __name__ == "__main__":
    main()
