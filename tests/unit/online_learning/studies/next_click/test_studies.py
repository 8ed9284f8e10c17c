"""What the studies on clicks promise: any file and any dates, told when they are wrong, and figures with intervals."""

import textwrap
from pathlib import Path

import msgspec
import pytest

from online_learning.studies.next_click.click_study import HALF, LESS, ClickStudy
from online_learning.studies.next_click.passes import ONLINE
from online_learning.studies.next_click.settings import NextClickSettings
from online_learning.studies.next_click.study import NextClick
from online_learning.studies.runner import Outcome, run
from online_learning.studies.study import StudyError
from online_learning.studies.sync_interval import SyncInterval
from tests.unit.online_learning.studies.next_click.world import made_clicks, write

SMALL = NextClickSettings(candidates=24, next_kept=8, pairs_kept=8, top_kept=16, dim=4, hidden=(16, 8), batch=8)
MINE = """
    import numpy as np

    class Newest:
        def scores(self, prefix, user, now_ms, candidates):
            return np.asarray(candidates, float)

        def learn(self, session, user, article, now_ms, prefix):
            pass
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(made_clicks(hours=16), tmp_path_factory.mktemp("clicks") / "made.parquet")


def ran(study: ClickStudy, folder: Path, **options: str) -> Outcome:
    study.settings = SMALL
    study.configure(options)
    return run(study, folder, folder, about={}, seeds=(0,))


def test_next_click_ranks_any_file_of_the_format_on_any_dates(file: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(textwrap.dedent(MINE))
    outcome = ran(
        NextClick(), tmp_path, file=str(file), eval_from="2020-03-01T10:00", every="4", scorer=f"{mine}:Newest"
    )
    summary = outcome.summary
    assert {"recent popularity", "co-visitation", "V-SkNN", "Newest", ONLINE, "all daily"} <= set(
        summary.settings("next click")
    )
    popular = summary.values("next click", "recent popularity", "MRR@10" + LESS)
    assert popular[0] < 0
    assert summary.values("next click", ONLINE, "MRR@10" + HALF)[0] > 0
    assert f"{ONLINE} against co-visitation: HR@10 " in outcome.table.read_text()


def test_sync_interval_compares_each_interval_with_at_once(file: Path, tmp_path: Path) -> None:
    outcome = ran(SyncInterval(), tmp_path, file=str(file), eval_from="2020-03-01T10:00", every="8")
    lagging = "model and counts lag"
    assert outcome.summary.settings(lagging) == [ONLINE, "10 s", "1 min", "5 min", "30 min", "1 h", "5 h", "1 day"]
    late = outcome.summary.values(lagging, "1 day", "MRR@10" + LESS)[0]
    assert late < outcome.summary.values(lagging, "10 s", "MRR@10" + LESS)[0]
    assert outcome.picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eval_from": "tomorrow"}, "`eval_from` == 'tomorrow', must be a day"),
        ({"every": "0"}, "`every` == 0, must be >= 1"),
        ({"day": "2020-03-01"}, "has no option --day, but --file"),
    ],
)
def test_wrong_options_are_told(options: dict[str, str], said: str) -> None:
    with pytest.raises(StudyError, match=said):
        NextClick().configure(options)


def test_dates_without_clicks_and_files_that_are_not_there_are_told(file: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing to rank from 2031-01-01"):
        ran(NextClick(), tmp_path, file=str(file), eval_from="2031-01-01")
    with pytest.raises(StudyError, match="there is no file of clicks"):
        ran(NextClick(), tmp_path)


def test_the_options_are_part_of_a_figures_sizes() -> None:
    study, other = NextClick(), NextClick()
    other.configure({"every": "3"})
    assert study.sizes(False) != other.sizes(False)
    assert msgspec.structs.asdict(other.options) != msgspec.structs.asdict(study.options)


@pytest.mark.data
def test_on_globo_a_short_pass_beats_co_visitation(data: Path, tmp_path: Path) -> None:
    study = NextClick()
    study.configure({"start": "2017-10-09T00:00", "eval_from": "2017-10-09T06:00", "eval_to": "2017-10-09T09:00"})
    summary = run(study, data, tmp_path, about={}, only=(ONLINE, "co-visitation")).summary
    assert summary.values("next click", "co-visitation", "MRR@10" + LESS)[0] < 0
