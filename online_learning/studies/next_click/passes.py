"""One pass over the clicks: a learner, replicas that lag behind it and baselines, all ranking the same clicks."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import msgspec

from online_learning.studies.next_click.clicks import Clicks
from online_learning.studies.next_click.protocol import Ranks, Scorer, Window, prequential
from online_learning.studies.next_click.settings import NextClickSettings
from online_learning.studies.study import StudyError

ONLINE = "online"


class Lag(msgspec.Struct, frozen=True):
    """How a replica lags: synced each `interval_s` (0: only at the start of the evaluation). `features_live`: only
    network and embeddings lag, the counts do not."""

    interval_s: float
    features_live: bool


def learner_pass(
    clicks: Clicks, window: Window, settings: NextClickSettings, seed: int, lags: Mapping[str, Lag]
) -> Ranks:
    """The ranks of the online learner (`ONLINE`) and of its replicas by name."""
    # The command line lists studies without waiting for torch.
    import torch

    from online_learning.studies.next_click.learner import NextClickLearner
    from online_learning.studies.next_click.replica import Replica

    torch.set_num_threads(1)
    learner = NextClickLearner(settings, seed)
    replicas = {
        name: Replica(learner, window.from_ms, round(1000 * lag.interval_s), features_live=lag.features_live)
        for name, lag in lags.items()
    }

    def advance(now_ms: int) -> None:
        for replica in replicas.values():
            replica.advance(now_ms)

    return prequential(clicks, {ONLINE: learner, **replicas}, window, advance)


def baseline_pass(clicks: Clicks, window: Window, scorer: str = "") -> Ranks:
    """The ranks of the baselines, and of a scorer of one's own, `PATH:CLASS`."""
    from online_learning.studies.next_click.baselines import CoVisitation, RecentPopularity, VSkNN

    scorers: dict[str, Scorer] = {
        "recent popularity": RecentPopularity(),
        "co-visitation": CoVisitation(),
        "V-SkNN": VSkNN(),
    }
    if scorer:
        scorers[scorer.rpartition(":")[2]] = load_scorer(scorer)
    return prequential(clicks, scorers, window)


def load_scorer(name: str) -> Scorer:
    """A new scorer of the class that `PATH:CLASS` names; it has `scores` and `learn` of the protocol."""
    path, _, cls = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path) if Path(path).is_file() else None
    if spec is None or spec.loader is None:
        raise StudyError(f"`scorer` == {name!r}, must be PATH:CLASS of a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, cls, None)
    if found is None or not all(callable(getattr(found, method, None)) for method in ("scores", "learn")):
        raise StudyError(f"`scorer` == {name!r}: {Path(path).name} has no class {cls} with `scores` and `learn`")
    return cast(Scorer, found())
