"""What freshness is worth: the online learner served by replicas that are synced each day, hour, minute or second.

Monolith, section 3.3 and table 2 (Liu et al. 2022, https://arxiv.org/abs/2209.07663), which compares 5 h, 1 h and
30 min, extended down to seconds, and split into what lags: the model alone, or the counts it reads as well.
"""

from typing import TYPE_CHECKING, ClassVar, Final

from online_learning.studies.next_click.click_study import LESS, ClickStudy, over_sessions
from online_learning.studies.next_click.passes import ONLINE, Lag
from online_learning.studies.picture import error_bars
from online_learning.studies.summary import Summary
from online_learning.studies.words import signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVALS_S: Final = {
    "1 day": 86_400.0,
    "5 h": 18_000.0,
    "1 h": 3_600.0,
    "30 min": 1_800.0,
    "5 min": 300.0,
    "1 min": 60.0,
    "10 s": 10.0,
}
_AT_ONCE_S: Final = 1.0
"""Where `online` stands on a logarithmic axis."""


class SyncInterval(ClickStudy):
    """One learner, and a replica for each interval and each way of lagging, ranking the same clicks."""

    name = "sync-interval"
    title = "Sync interval: what freshness is worth"
    question = (
        "How much worse is a news reader's next click ranked when what the online learner has learned reaches serving "
        "every 10 s, 1 min, 5 min, 30 min, 1 h, 5 h or once a day instead of at once?"
    )
    groups: ClassVar = {
        "model and counts lag": {name: Lag(s, False) for name, s in INTERVALS_S.items()},
        "only the model lags": {name: Lag(s, True) for name, s in INTERVALS_S.items()},
    }
    x_label = "seconds from sync to sync (1: at once)"
    x_log = True
    notes = (
        "The yardstick, the learner and the notes on them are those of `next-click`; a replica is synced at the start "
        "of what is ranked and then each interval. On average it is half an interval late.",
        "`only the model lags`: network and embeddings, which is what Monolith syncs; decayed counts are read live, as "
        "from a feature store. `model and counts lag`: candidates and counts too, read as of their newest click.",
        "Columns with ±: half of the 95% interval over user sessions; differences are paired click by click.",
    )

    def place(self, group: str, setting: str) -> float | None:
        return INTERVALS_S.get(setting, _AT_ONCE_S)

    def findings(self, summary: Summary) -> list[str]:
        found = []
        for group in summary.groups:
            for metric in ("HR@10", "MRR@10"):
                told = []
                for setting in summary.settings(group):
                    change = over_sessions(summary, group, setting, metric + LESS)
                    if change is not None:
                        verdict = "" if change.excludes_zero else " (not told from 0)"
                        told.append(f"{setting} {signed(change, self.digits)}{verdict}")
                if told:
                    found.append(f"{group}, {metric} against at once: {'; '.join(told)}.")
        return found

    def draw(self, figure: "Figure", summary: Summary) -> None:
        panels = figure.subplots(1, 2, squeeze=False)[0]
        for panel, metric in zip(panels, ("HR@10", "MRR@10"), strict=True):
            for group in summary.groups:
                known = [
                    (INTERVALS_S[setting], change)
                    for setting in summary.settings(group)
                    if (change := over_sessions(summary, group, setting, metric + LESS)) is not None
                ]
                error_bars(panel, [x for x, _ in known], [change for _, change in known], group)
            panel.axhline(0.0, color="grey", linewidth=0.8)
            panel.set_xscale("log")
            panel.set_xlabel("seconds from sync to sync")
            panel.set_title(f"{metric}, difference to {ONLINE}", fontsize=10)
            panel.grid(alpha=0.3)
        panels[0].legend(fontsize=8)
        figure.set_size_inches(9.0, 3.6)
        figure.suptitle(self.title, fontsize=11)
