"""Free TCP ports on the loopback, held until the server that is to use them starts."""

import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below 20,000 live the ports that people know by heart; from the kernel's own range upwards any outgoing connection
# may take one at any moment, also between a server's crash and its restart.
_LOWEST = 20_000


class PortTaken(Exception):
    """A port that a server must have belongs to somebody else."""


class HeldPort:
    """A port with a listening socket on it, so that nobody else gets it; `release` it just before the server starts."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]

    def release(self) -> int:
        """Lets go of the port and returns its number."""
        self._listener.close()
        return self.port


def hold(port: int) -> HeldPort:
    """Takes this port. Raises PortTaken where somebody else has it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # As the servers do it: the remains of closed connections do not count, a listener does.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise PortTaken(f"port {port}: {error.strerror}") from error
    return HeldPort(listener)


def hold_free(preferred: int | None, rng: random.Random, attempts: int = 200) -> HeldPort:
    """Takes `preferred` where it is free, else some free port. Raises PortTaken after `attempts` taken ones."""
    if preferred:
        try:
            return hold(preferred)
        except PortTaken:
            pass
    highest = _highest()
    for _ in range(attempts):
        try:
            return hold(rng.randrange(_LOWEST, highest))
        except PortTaken:
            continue
    raise PortTaken(f"no free port found in {_LOWEST}..{highest} after {attempts} attempts")


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    try:
        hold(port).release()
    except PortTaken:
        return False
    return True


def _highest() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except OSError:
        first = 32_768
    return first if first > _LOWEST + 1_000 else 65_536


class PortBook:
    """The ports of a stack by name: each is held from the start until the server that is to listen on it starts."""

    def __init__(self, names: Iterable[str], preferred: Mapping[str, int], rng: random.Random) -> None:
        self._rng = rng
        self._held = {name: hold_free(preferred.get(name), rng) for name in names}
        self.numbers: dict[str, int] = {name: held.port for name, held in self._held.items()}

    def release(self, names: Iterable[str]) -> None:
        """Lets go of these, because their server starts now."""
        for name in names:
            if name in self._held:
                self._held.pop(name).release()

    def replace(self, names: Iterable[str]) -> None:
        """Other ports for these, because somebody got in between."""
        for name in names:
            self._held[name] = hold_free(None, self._rng)
            self.numbers[name] = self._held[name].port

    def taken(self, names: Iterable[str]) -> list[int]:
        """Those that somebody listens on."""
        numbers = (self.numbers[name] for name in names if name not in self._held)
        return [number for number in numbers if not is_free(number)]
