"""The small disk of a campaign goes with the campaign, even if that is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

# `unshare` is of the thread that calls it: not of the process that runs the tests.
_PROGRAM = """
import sys
from pathlib import Path
from infra.chaos.disk import small_disk
with small_disk(Path(sys.argv[1])) as mounted:
    (Path(sys.argv[1]) / "checkpoint").touch()
    print(mounted, flush=True)
    sys.stdin.read()
"""


def test_a_campaign_that_is_killed_leaves_no_disk_mounted(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    argv = (sys.executable, "-c", _PROGRAM, str(disk))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as campaign:
        assert campaign.stdout is not None
        mounted = campaign.stdout.readline() == "True\n"
        seen_by_it = Path(f"/proc/{campaign.pid}/mounts").read_text()
        campaign.kill()
    if not mounted:
        pytest.skip("this process may not mount a disk of its own")
    assert str(disk) in seen_by_it
    assert str(disk) not in Path("/proc/self/mounts").read_text()
    assert list(disk.iterdir()) == []
    disk.rmdir()
