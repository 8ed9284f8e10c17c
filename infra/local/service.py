"""One server or process of the stack, as the supervisor sees it."""

from collections.abc import Callable, Mapping

import msgspec

from infra.local.launch import Launch

Ports = Mapping[str, int]


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What is started after what, how, and how one knows that it answers.

    `needs`: names of services that must be up first. `ports`: names of the ports it listens on. `launch(ports)` is None
    for an outside server: nothing is started, it is only waited for. `probe(ports, pid, timeout_s)` makes a real
    request and returns the version, or raises NotReady. `prepare(ports)` runs once after the first answer, before
    anybody who needs the service starts (topics, schemas); an exception there is shown and tried again.
    `silent_s`: a process that is there but whose probe fails for so long is killed and started again; None where a busy
    server may well be silent. A probe that raises Broken has it started again at once.
    """

    name: str
    needs: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    launch: Callable[[Ports], Launch] | None
    probe: Callable[[Ports, int | None, float], str]
    addresses: Callable[[Ports], dict[str, str]]
    prepare: Callable[[Ports], None] | None = None
    probe_interval_s: float = 5.0
    probe_timeout_s: float = 2.0
    silent_s: float | None = None


def in_order(services: tuple[Service, ...]) -> tuple[Service, ...]:
    """The services, each after all that it needs; needs that are not among them are taken for met.

    Raises ValueError where they need each other in a circle.
    """
    names = {service.name for service in services}
    ordered: list[Service] = []
    placed: set[str] = set()
    left = list(services)
    while left:
        ready = [service for service in left if all(need in placed or need not in names for need in service.needs)]
        if not ready:
            raise ValueError(f"services need each other in a circle: {', '.join(service.name for service in left)}")
        ordered += ready
        placed |= {service.name for service in ready}
        left = [service for service in left if service.name not in placed]
    return tuple(ordered)
