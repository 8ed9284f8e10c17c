"""What a simulation earned, per arm, against what the world says was possible."""

from msgspec import Struct

from streams.records import Metric


class Tally(Struct, frozen=True):
    """Sums over the lists shown by one arm; all but `requests` and `clicks` are per item shown when divided by `shown`.

    `expected`: click probability of what was shown; `best`: of the best lists for the same users at the same times;
    `popularity`: of the best single list for all.
    """

    requests: int = 0
    shown: int = 0
    clicks: int = 0
    expected: float = 0.0
    best: float = 0.0
    popularity: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.requests + other.requests,
            self.shown + other.shown,
            self.clicks + other.clicks,
            self.expected + other.expected,
            self.best + other.best,
            self.popularity + other.popularity,
        )

    def __sub__(self, other: "Tally") -> "Tally":
        return Tally(
            self.requests - other.requests,
            self.shown - other.shown,
            self.clicks - other.clicks,
            self.expected - other.expected,
            self.best - other.best,
            self.popularity - other.popularity,
        )

    @property
    def ctr(self) -> float:
        """Clicks per item shown."""
        return self.clicks / self.shown if self.shown else 0.0

    @property
    def expected_ctr(self) -> float:
        """The true click probability of what was shown, without the chance in clicks."""
        return self.expected / self.shown if self.shown else 0.0

    @property
    def best_ctr(self) -> float:
        """The highest CTR that was possible."""
        return self.best / self.shown if self.shown else 0.0

    @property
    def popularity_ctr(self) -> float:
        """The highest CTR that one list for all could have had."""
        return self.popularity / self.shown if self.shown else 0.0

    @property
    def regret(self) -> float:
        """Clicks per item shown that the best lists would have earned beyond what was shown."""
        return self.best_ctr - self.expected_ctr


class Snapshot(Struct, frozen=True):
    """A simulation at one moment: totals per arm; `failed` requests had no answer, `empty` ones no items."""

    seconds: float
    arms: dict[str, Tally]
    failed: int
    empty: int
    organic: int

    @property
    def total(self) -> Tally:
        """All arms together."""
        return sum(self.arms.values(), Tally())


def metrics(before: Snapshot, after: Snapshot, seed: int, scene: str, ts: int) -> list[Metric]:
    """The stretch between two snapshots as metrics of the process `simulate-<seed>`, per arm."""
    found = []
    for arm, tally in after.arms.items():
        stretch = tally - before.arms.get(arm, Tally())
        if not stretch.shown:
            continue
        figures = {
            "simulation_ctr": stretch.ctr,
            "simulation_expected_ctr": stretch.expected_ctr,
            "simulation_best_ctr": stretch.best_ctr,
            "simulation_popularity_ctr": stretch.popularity_ctr,
            "simulation_regret": stretch.regret,
        }
        labels = {"arm": arm, "scene": scene, "seed": str(seed)}
        found += [
            Metric(process=f"simulate-{seed}", name=name, ts=ts, value=value, labels=labels)
            for name, value in figures.items()
        ]
    return found
