"""The supervisor as a process: `python -m infra.local --state DIR [--config FILE] [--only NAMES] [--while PID]`."""

import argparse
import logging
import sys
from pathlib import Path

from infra.local.identity import identify
from infra.local.install import InstallError
from infra.local.stack import NAMES, Stack, install
from infra.local.supervisor import AlreadyUp, Supervisor
from infra.process import configure_logging
from infra.settings import Settings, SettingsError, load

ALREADY_UP = 3


def supervise(settings: Settings, names: tuple[str, ...], owner_pid: int | None) -> None:
    """Runs the stack in this process until a signal ends it. Raises AlreadyUp, InstallError."""
    owner = None if owner_pid is None else identify(owner_pid)
    if owner_pid is not None and owner is None:
        return
    stack = Stack(settings, names, install(settings, names))
    supervisor = Supervisor(stack.services, stack.state, settings.local, stack.write_resolved, owner)
    supervisor.install_signal_handlers()
    # What a probe found is in the status; its client need not say it too.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    supervisor.run()
    stack.clean()


def main() -> int:
    """The exit code is 0 after an ordered stop, 3 where the folder has a supervisor."""
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument("--while", type=int, dest="owner")
    arguments = parser.parse_args()
    try:
        settings = load(arguments.config, arguments.state)
        configure_logging(settings.local.log_level)
        supervise(settings, tuple(arguments.only.split(",")), arguments.owner)
    except AlreadyUp:
        return ALREADY_UP
    except (SettingsError, InstallError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
