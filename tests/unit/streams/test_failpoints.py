"""Every failpoint of the catalogue stands in the code, and an armed one strikes exactly once, when it is due."""

import errno
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.failpoints import CATALOGUE, Action, Arm, arm, hit, parse

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("streams", "features", "online_learning", "serving")
NAME = "trainer.learned"


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    arm(None)


def test_the_catalogue_is_what_stands_in_the_code() -> None:
    found: list[str] = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            found += re.findall(r"\bhit\(\s*\"([^\"]+)\"", path.read_text())
    assert sorted(found) == sorted(CATALOGUE)


def test_a_place_that_is_not_armed_does_nothing() -> None:
    hit(NAME)
    arm(parse("trainer.cut"))
    hit(NAME)


def test_an_armed_place_strikes_at_its_count_and_never_again() -> None:
    struck: list[int] = []
    arm(parse(f"{NAME}:3:no-space"), lambda: struck.append(1))
    hit(NAME)
    hit(NAME)
    with pytest.raises(OSError, match="No space left on device") as caught:
        hit(NAME)
    assert caught.value.errno == errno.ENOSPC
    hit(NAME)
    assert struck == [1]


def test_a_deadly_place_ends_the_process_by_sigkill_and_tears_first(tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    program = (
        "import sys; from pathlib import Path; from streams.failpoints import arm, hit, parse\n"
        "arm(parse(sys.argv[1])); hit('trainer.learned'); hit('trainer.learned', lambda: Path(sys.argv[2]).touch())\n"
        "print('alive')"
    )
    argv = [sys.executable, "-c", program, f"{NAME}:2", str(torn)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
    assert torn.exists()


def test_what_is_armed_can_be_written_and_read() -> None:
    assert parse(NAME) == Arm(NAME, 1, Action.KILL)
    assert parse(f"{NAME}:7") == Arm(NAME, 7, Action.KILL)
    assert parse(str(Arm(NAME, 2, Action.NO_SPACE))) == Arm(NAME, 2, Action.NO_SPACE)


@pytest.mark.parametrize("text", ["nowhere", f"{NAME}:0", f"{NAME}:x", f"{NAME}:1:sing"])
def test_a_wrong_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_every_place_says_which_process_and_what_has_happened() -> None:
    assert {name.split(".")[0] for name in CATALOGUE} == {"trainer", "replica", "worker", "features", "sink"}
    assert all(place.what for place in CATALOGUE.values())
