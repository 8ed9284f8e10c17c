"""A process's health file holds its newest values, whole, and is not written more often than promised."""

import os
from pathlib import Path

from streams.health import Health, read_health
from tests.stacks import wait_until


def test_the_first_report_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "health" / "worker.json"
    Health(path).report(lag=3, state="restoring")
    report = read_health(path)
    assert report is not None
    assert (report.pid, report.values) == (os.getpid(), {"lag": 3, "state": "restoring"})


def test_reports_are_merged_and_the_last_word_is_written_without_another_report(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    health = Health(path, interval_s=0.05)
    for lag in range(100):
        health.report(lag=lag)
    health.report(rows=7)

    def written() -> bool:
        report = read_health(path)
        return report is not None and report.values == {"lag": 99, "rows": 7}

    wait_until(written, 5, "the last word is written")


def test_reports_within_the_interval_do_not_touch_the_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.json"
    health = Health(path, interval_s=3600)
    health.report(lag=1)
    before = path.stat().st_ino
    for lag in range(1_000):
        health.report(lag=lag)
    assert path.stat().st_ino == before
    assert health.values == {"lag": 999}


def test_without_a_path_nothing_is_written_and_values_are_kept() -> None:
    health = Health(None)
    health.report(lag=1)
    assert health.values == {"lag": 1}


def test_a_missing_or_broken_file_reads_as_none(tmp_path: Path) -> None:
    assert read_health(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"pid": 1, "at')
    assert read_health(tmp_path / "half.json") is None
