"""`python -m infra.local.gateway --port 8123 --path DIR`: run the gateway until SIGTERM."""

import argparse
from pathlib import Path

import uvicorn

from infra.local.gateway.app import application
from infra.local.gateway.engine import Engine
from infra.local.gateway.wire import Credentials


def main() -> None:
    """Serve until a signal; statements that run are given `--grace-s` to end."""
    parser = argparse.ArgumentParser(prog="python -m infra.local.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback unless told otherwise")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True, help="the database folder")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-file", type=Path, help="a file with the password; without it there is none")
    parser.add_argument("--threads", type=int, default=4, help="statements that run at once")
    parser.add_argument("--grace-s", type=int, default=5)
    given = parser.parse_args()
    password = given.password_file.read_text().strip() if given.password_file else ""
    uvicorn.run(
        application(Engine(given.path), Credentials(given.user, password), threads=given.threads),
        host=given.host,
        port=given.port,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=given.grace_s,
        lifespan="on",
        ws="none",
    )


if __name__ == "__main__":
    main()
