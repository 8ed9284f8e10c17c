"""Of a killed Triton's folders those are removed that no living process can have made."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.local import triton_leftovers
from infra.local.identity import started_s

# Maps a file of the backend's name, as a Triton does that has it in memory.
_PROGRAM = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print("mapped", flush=True)
sys.stdin.read()
"""


def test_the_start_of_a_process_is_known_to_the_second() -> None:
    begun_s = time.time()
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as process:
        assert begun_s - 2.0 <= started_s(process.pid) <= time.time() + 2.0
        process.communicate(b"\n")
    with pytest.raises(FileNotFoundError):
        started_s(process.pid)


def test_folders_go_that_no_living_triton_can_have_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    monkeypatch.setattr(triton_leftovers, "_backends_began_s", lambda: began)
    names = ("python_env_aaaaaa", "python_env_full00", "python_env_longer_name", "another")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "python_env_full00" / "bin").touch()
    (tmp_path / "python_env_afile0").touch()
    began.append(time.time())
    triton_leftovers.remove_leftovers(tmp_path)
    assert (tmp_path / "python_env_aaaaaa").exists(), "whose Triton began before the folder was made may have made it"
    began[:] = [time.time() + 3.0]
    triton_leftovers.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"python_env_full00", "python_env_longer_name", "another", "python_env_afile0"}


def test_a_process_is_known_by_the_backend_in_its_memory(tmp_path: Path) -> None:
    library = tmp_path / "libtriton_python.so"
    library.write_bytes(bytes(4096))
    folder = tmp_path / "python_env_aaaaaa"
    argv = (sys.executable, "-c", _PROGRAM, str(library))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as triton:
        assert triton.stdout is not None and triton.stdout.readline() == b"mapped\n"
        assert started_s(triton.pid) in triton_leftovers._backends_began_s()
        folder.mkdir()
        triton_leftovers.remove_leftovers(tmp_path)
        assert folder.exists()
        triton.communicate()
