"""A client installs without the server's libraries."""

import subprocess
import sys

_HEAVY = ("torch", "numba", "feast", "faust", "pandas", "pyarrow", "scipy", "redis", "aiokafka", "rocksdict", "infra")

_PROGRAM = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_HEAVY!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
from serving.client import Recommender, Recommendation
Recommender("127.0.0.1:9").close()
"""


def test_the_client_needs_nothing_of_the_server() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
