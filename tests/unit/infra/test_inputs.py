"""What `freshet replay` says of options that it cannot take."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.cli import app


@pytest.mark.parametrize("speed", ["inf", "nan", "0", "-1", "fast"])
def test_a_speed_is_max_or_a_number_of_events_a_second(speed: str) -> None:
    done = CliRunner().invoke(app, ["replay", "ml-100k", "--speed", speed])
    assert done.exit_code == 1
    assert f"`--speed` == {speed!r}, must be max or a number of events a second" in done.stderr


def test_data_that_is_not_there_is_asked_for_by_option_and_variable(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["replay", "ml-100k", "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert str(tmp_path) in done.stderr
    assert "name the folder of the data sets with --data or FRESHET_DATA" in done.stderr
