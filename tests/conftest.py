"""What all tests share: where real data is, and that whoever names it, as CI does, never skips for the lack of it."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from infra.settings import Settings

# Compiled code lies where the processes of every stack keep it: in a new checkout it is compiled once, not twice.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Settings().cache / "numba"))
# How long an example takes says something of the machine, and nothing of what is tested.
settings.register_profile("untimed", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """The folder of real data sets: `FRESHET_DATA`, or `../shared/data` beside the project."""
    return Path(os.environ.get("FRESHET_DATA") or ROOT.parent / "shared" / "data")


# What takes longest comes first and what takes no time last, so that no worker is left with a long file at the end.
TIERS = ("faults", "end_to_end", "servers", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: TIERS.index(item.path.relative_to(ROOT / "tests").parts[0]))
    folder = data_folder()
    if folder.is_dir():
        return
    reason = f"needs the real data sets: FRESHET_DATA names {folder}, which is no folder"
    for item in items:
        if "data" in item.keywords:
            if os.environ.get("CI") or os.environ.get("FRESHET_DATA"):
                item.add_marker(pytest.mark.usefixtures("_data_required"))
            else:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def _data_required() -> None:
    pytest.fail(f"FRESHET_DATA and CI ask for the real data sets, and {data_folder()} is no folder")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets (tests that use it carry the marker `data`)."""
    return data_folder()
