"""Next click on a log of news: the online learner against what is hard to beat there."""

from collections.abc import Sequence
from typing import ClassVar, Final

from online_learning.studies.next_click.click_study import LESS, ClickStudy, over_sessions
from online_learning.studies.next_click.passes import ONLINE, Lag
from online_learning.studies.next_click.significance import METRICS
from online_learning.studies.summary import Summary
from online_learning.studies.words import signed

BASELINES: Final = ("recent popularity", "V-SkNN", "co-visitation")
_DAY_S: Final = 86_400.0


class NextClick(ClickStudy):
    """Prequential full ranking; see protocol.py."""

    name = "next-click"
    title = "Next click: learning as the stream goes"
    question = (
        "How much better does a learner rank a news reader's next click when it learns from every click at once, "
        "against recent popularity, nearest user sessions, co-visitation, and itself updated daily or not at all?"
    )
    groups: ClassVar = {
        "next click": {
            "all frozen": Lag(0, False),
            "all daily": Lag(_DAY_S, False),
            "model frozen, counts live": Lag(0, True),
            "model daily, counts live": Lag(_DAY_S, True),
        }
    }
    notes = (
        "Before each click that is not its user session's first is learned, all articles clicked by anyone in the 24 "
        "hours before, less those of the user session, are ranked: no sampled negatives, ties count against, an "
        "article that is not active is a miss.",
        "Little was tuned, and on 2017-10-09 of the Globo log only; what is ranked by default, 2017-10-11 and -12, was "
        "ranked once.",
        "Not used, as they would tell the future: `session_size`, the predicted click's `referrer_type`, and the time "
        "since the last click (a user session's last click is stamped exactly 30 s after the one before).",
        "Frozen: the state at the start of what is ranked. Daily: the state of the midnight before. `counts live`: "
        "only network and embeddings are late; `all`: decayed counts and candidates too, read as of their newest "
        "click.",
        "Columns with ±: half of the 95% interval over user sessions: clicks of one are not independent. A seed sets "
        "the initial network and embeddings.",
    )

    def baselines(self, group: str) -> Sequence[str]:
        own = (self.options.scorer.rpartition(":")[2],) if self.options.scorer else ()
        return (*BASELINES, *own)

    def place(self, group: str, setting: str) -> float | None:
        return None

    def findings(self, summary: Summary) -> list[str]:
        found = []
        for group in summary.groups:
            for setting in summary.settings(group):
                told = []
                for metric in METRICS:
                    change = over_sessions(summary, group, setting, metric + LESS)
                    if change is not None:
                        more = type(change)(-change.mean, -change.high, -change.low, change.n)
                        told.append(f"{metric} {signed(more, self.digits)}")
                if told:
                    found.append(f"{ONLINE} against {setting}: {', '.join(told)} (paired over user sessions).")
        return found
