"""ClickHouse on a laptop: the engine comes with the chdb wheel, the gateway gives it ClickHouse's HTTP port."""

import http.client
import os
import sys
from importlib import metadata
from pathlib import Path

import msgspec

from infra.local.launch import Launch, NotReady

HOST = "127.0.0.1"


class Installed(msgspec.Struct, frozen=True):
    """The wheel's engine: there is nothing to fetch beside the Python environment."""

    version: str


def install(cache: Path) -> Installed:
    """Find the engine; `cache` stays untouched because the wheel carries everything."""
    return Installed(metadata.version("chdb-core"))


def launch(
    installed: Installed, state: Path, *, port: int, user: str = "default", password: str = "", threads: int = 4
) -> Launch:
    """The process that serves `state/data` on `port` (loopback only).

    The password travels in a file of mode 600, so that it does not show in the list of processes.
    """
    state.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "infra.local.gateway", "--host", HOST, "--port", str(port)]
    argv += ["--path", str(state / "data"), "--user", user, "--threads", str(threads)]
    secret = state / "password"
    secret.unlink(missing_ok=True)
    if password:
        secret.touch(mode=0o600)
        secret.write_text(password)
        argv += ["--password-file", str(secret)]
    kept = ("PATH", "HOME", "LANG", "TZ")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    return Launch(name="clickhouse", argv=tuple(argv), env=env, cwd=state, stop_grace_s=15.0)


def probe(address: str, timeout_s: float, *, user: str = "default", password: str = "") -> str:
    """Ask `address` (host:port) for its version with a real query.

    Raises:
        NotReady: nothing answered, or something that is not ClickHouse did.
    """
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
    headers = {"X-ClickHouse-User": user, "X-ClickHouse-Key": password}
    try:
        connection.request("POST", "/", body="SELECT version() FORMAT TSVRaw", headers=headers)
        response = connection.getresponse()
        body = response.read(1000).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(f"{address}: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200 or "x-clickhouse-query-id" not in {name.lower() for name in response.headers}:
        raise NotReady(f"{address}: HTTP {response.status}: {body}")
    return body
