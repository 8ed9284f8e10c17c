"""What is killed and started again imports no more than it uses: that is most of the time until it is back."""

import subprocess
import sys

import pytest

# Each takes a second of a core, or several.
HEAVY = {"torch", "river", "scipy.stats", "feast", "sqlalchemy", "sklearn"}


@pytest.mark.parametrize("module", ["streams.worker", "serving.replica", "serving.evaluation.sink"])
def test_a_process_starts_without_what_only_others_use(module: str) -> None:
    command = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())
