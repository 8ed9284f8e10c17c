"""The house rules: lint, format, types, and imports that run one way."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("streams", "features", "online_learning", "serving", "infra")


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def tool(name: str, *argv: str) -> str:
    return run(str(Path(sys.executable).parent / name), *argv)


def test_the_code_is_linted() -> None:
    assert tool("ruff", "check", ".") == ""


def test_the_code_is_formatted() -> None:
    assert tool("ruff", "format", "--check", ".") == ""


@pytest.mark.timeout(600)
def test_the_packages_are_typed() -> None:
    assert tool("mypy") == ""


def test_imports_run_one_way() -> None:
    assert tool("lint-imports") == ""


def test_every_package_holds_only_what_it_ships() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert tuple(declared["packages"]) == PACKAGES


def test_the_locks_name_no_host() -> None:
    locks = [ROOT / "requirements.lock", *(ROOT / "infra" / "local" / "locks").glob("*.lock")]
    assert len(locks) > 1
    named = [f"{lock.name}: {line}" for lock in locks for line in lock.read_text().splitlines() if "://" in line]
    assert named == []


def test_no_file_is_larger_than_one_noun() -> None:
    large = {
        str(path.relative_to(ROOT)): lines
        for package in (*PACKAGES, "tests")
        for path in (ROOT / package).rglob("*.py")
        if (lines := path.read_text().count("\n")) > 500
    }
    assert large == {}


def test_every_dependency_has_its_line_in_the_architecture() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[><=!~ ]", d)[0] for d in declared} - {"freshet"}
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    assert {name for name in names if f"`{name}`" not in architecture} == set()
