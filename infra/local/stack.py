"""The stack: which servers and processes there are, what each needs, and how the settings become their commands."""

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from infra.local import clickhouse, kafka, redis, triton
from infra.local.ending import remove_shared_memory
from infra.local.launch import Broken, Launch, NotReady
from infra.local.service import Ports, Service
from infra.local.state import State, write_json
from infra.local.triton_leftovers import remove_leftovers
from infra.settings import Settings, shared_memory, with_addresses
from streams.health import read_health

SERVERS = ("kafka", "redis", "clickhouse", "triton")

# Each process of ours and what must answer before it can begin.
OWN: dict[str, tuple[str, ...]] = {
    "worker": ("kafka",),
    "features": ("kafka", "redis"),
    "trainer": ("kafka",),
    "replica": ("kafka",),
    "sink": ("kafka", "clickhouse"),
}

NAMES = (*SERVERS, *OWN)

_VERSION = metadata.version("freshet")

_PORTS = {
    "kafka": ("kafka", "kafka_controller"),
    "redis": ("redis",),
    "clickhouse": ("clickhouse",),
    "triton": ("triton_grpc", "triton_http", "triton_metrics"),
}

_INSTALLERS: dict[str, Callable[[Path], Any]] = {
    "kafka": kafka.install,
    "redis": redis.install,
    "clickhouse": clickhouse.install,
    "triton": triton.install,
}


def outside(settings: Settings) -> dict[str, str]:
    """The servers that the settings place elsewhere, by name: nothing is started for them."""
    addresses = {
        "kafka": settings.kafka.bootstrap,
        "redis": settings.features.redis,
        "clickhouse": settings.serving.clickhouse.address,
        "triton": settings.serving.triton.http,
    }
    return {name: address for name, address in addresses.items() if address}


def install(settings: Settings, names: Iterable[str], done: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Fetches the servers of these names that run here, all at once; `done(name)` after each. Raises InstallError."""
    wanted = [name for name in names if name in _INSTALLERS and name not in outside(settings)]

    def fetch(name: str) -> Any:
        installed = _INSTALLERS[name](settings.cache)
        done(name)
        return installed

    with ThreadPoolExecutor(max(len(wanted), 1)) as pool:
        return dict(zip(wanted, pool.map(fetch, wanted), strict=True))


class Stack:
    """The services of `names` for these settings; `installed` is what `install` returned for them."""

    def __init__(self, settings: Settings, names: Iterable[str], installed: dict[str, Any]) -> None:
        self.settings = settings
        self.state = State(settings.state)
        self._installed = installed
        self._outside = outside(settings)
        self.services = tuple(self._service(name) for name in NAMES if name in set(names))

    def resolve(self, ports: Ports) -> Settings:
        """The settings with the addresses that these ports make."""
        return with_addresses(self.settings, {name: f"127.0.0.1:{port}" for name, port in ports.items()})

    def write_resolved(self, ports: Ports) -> None:
        """Writes what every process and every client of the stack reads."""
        write_json(self.state.resolved, self.resolve(ports))

    def clean(self) -> None:
        """Removes the temporary files of a stopped stack, and its shared memory, which the next start fills again from
        checkpoint and log.

        A folder of shared memory that the settings name stays: whoever named it decides.
        """
        self.state.remove_scratch()
        remove_leftovers()
        if self.settings.serving.shm_dir == shared_memory(self.state.folder):
            remove_shared_memory(Path(self.settings.serving.shm_dir).name)

    def _service(self, name: str) -> Service:
        if name in OWN:
            return Service(
                name=name,
                needs=OWN[name],
                launch=lambda _: self._own(name),
                probe=lambda _, pid, __: self._own_probe(name, pid),
                addresses=lambda _: {},
                probe_interval_s=1.0,
            )
        here = name not in self._outside
        return Service(
            name=name,
            needs=("kafka", "redis", "replica") if name == "triton" and here else (),
            ports=_PORTS[name] if here else (),
            launch=(lambda ports: self._launch(name, ports)) if here else None,
            probe=lambda ports, _, timeout_s: probe(name, self.resolve(ports), timeout_s),
            addresses=lambda ports: addresses(name, self.resolve(ports)),
            prepare=self._provision if name == "kafka" else None,
            # A request that waits for a dead model waits for ever; a live one answers in milliseconds.
            probe_interval_s=2.0 if name == "triton" else 5.0,
            probe_timeout_s=5.0 if name == "triton" else 2.0,
            silent_s=30.0 if name == "triton" else None,
        )

    def _launch(self, name: str, ports: Ports) -> Launch:
        installed, folder = self._installed[name], self.state.folder / name
        local, serving = self.settings.local, self.settings.serving
        if name == "kafka":
            heap_mb = local.kafka_heap_mb
            return kafka.launch(installed, folder, ports["kafka"], ports["kafka_controller"], heap_mb)
        if name == "redis":
            return redis.launch(installed, folder, ports["redis"])
        if name == "clickhouse":
            user, password = serving.clickhouse.user, serving.clickhouse.password
            return clickhouse.launch(installed, folder, port=ports["clickhouse"], user=user, password=password)
        remove_leftovers()
        return triton.launch(
            installed,
            folder,
            ports["triton_grpc"],
            ports["triton_http"],
            ports["triton_metrics"],
            self.state.resolved,
            serving.triton.instances,
        )

    def _own(self, name: str) -> Launch:
        threads = str(self.settings.local.threads)
        # What numeric libraries, locales, certificates and proxies need; everything else is in the settings.
        kept = ("PATH", "HOME", "LANG", "TZ", "SSL_CERT_FILE")
        env = {key: os.environ[key] for key in kept if key in os.environ}
        for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA"):
            env[f"{library}_NUM_THREADS"] = threads
        env["NUMBA_CACHE_DIR"] = str(self.settings.cache / "numba")
        env["PYTHONUNBUFFERED"] = "1"
        argv = [sys.executable, "-m", "infra.process", name, "--settings", str(self.state.resolved)]
        if failpoint := self.state.take_armed(name):
            argv += ["--failpoint", failpoint]
        return Launch(name=name, argv=tuple(argv), env=env, cwd=self.state.folder, stop_grace_s=15.0)

    def _own_probe(self, name: str, pid: int | None) -> str:
        report = read_health(self.state.health(name))
        if report is None or report.pid != pid:
            raise NotReady("has not reported yet")
        if away := report.values.get("waiting_for"):
            raise NotReady(f"waits for {away}")
        return _VERSION

    def _provision(self, ports: Ports) -> None:
        # Imported late: a stack of other servers needs no Kafka client.
        from infra.provision import provision

        provision(self.resolve(ports), wait_s=20.0)


def addresses(name: str, settings: Settings) -> dict[str, str]:
    """The addresses of a server in resolved settings, by what speaks there."""
    triton_settings = settings.serving.triton
    return {
        "kafka": {"kafka": settings.kafka.bootstrap},
        "redis": {"redis": settings.features.redis},
        "clickhouse": {"http": settings.serving.clickhouse.address},
        "triton": {"grpc": triton_settings.grpc, "http": triton_settings.http},
    }.get(name, {})


def probe(name: str, settings: Settings, timeout_s: float) -> str:
    """Makes a real request to a server at its resolved address; returns its version. Raises NotReady."""
    if name == "kafka":
        return kafka.probe(settings.kafka.bootstrap, timeout_s)
    if name == "redis":
        return redis.probe(settings.features.redis, timeout_s)
    if name == "clickhouse":
        where = settings.serving.clickhouse
        return clickhouse.probe(where.address, timeout_s, user=where.user, password=where.password)
    try:
        return triton.probe(settings.serving.triton.http, timeout_s)
    except NotReady as error:
        # The server does not start a model's process again when it died.
        if "is not healthy" in str(error):
            raise Broken(str(error)) from error
        raise
