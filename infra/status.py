"""How the stack is: the supervisor's word, each server's answer to a real request, each process's health, and lag."""

import http.client
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import msgspec

from infra.lag import Lag, holdings
from infra.local import stack
from infra.local.identity import alive
from infra.local.launch import NotReady
from infra.local.state import ProcessStatus, StackStatus, State
from infra.settings import Settings
from streams.health import Value, read_health

_TIMEOUT_S = 3.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One server or process.

    `state`: waiting, starting, up, restarting, stopping, down; `silent` for a server that is there but does not answer,
    `away` for an outside one. `health`: counts, lags and freshness by name, as said at `said_ms`.
    """

    name: str
    state: str
    since_ms: int
    outside: bool = False
    pid: int | None = None
    addresses: dict[str, str] = {}
    version: str = ""
    restarts: int = 0
    health: dict[str, Value] = {}
    said_ms: int | None = None
    reason: str = ""
    lags: tuple[Lag, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `freshet status --json` prints."""

    phase: str
    at_ms: int
    state_dir: str
    processes: tuple[Row, ...]


def running(state: State) -> StackStatus | None:
    """The word of the supervisor that runs in the folder; None where none does."""
    status = state.read_status()
    return status if status is not None and alive(status.supervisor) else None


def gather(settings: Settings, state: State) -> Report:
    """Asks everything once; `settings` are the resolved ones where a stack runs, else the file's."""
    status = running(state)
    now_ms = time.time_ns() // 1_000_000
    known = status.processes if status is not None else _without_supervisor(settings, now_ms)
    with ThreadPoolExecutor(max(len(known), 1)) as pool:
        rows = tuple(pool.map(lambda process: _row(process, settings, state, now_ms), known))
    phase = status.phase if status is not None else "down"
    return Report(phase=phase, at_ms=now_ms, state_dir=str(state.folder), processes=rows)


def _without_supervisor(settings: Settings, now_ms: int) -> tuple[ProcessStatus, ...]:
    outside = stack.outside(settings)
    return tuple(
        ProcessStatus(
            name=name,
            state="down",
            since_ms=now_ms,
            outside=name in outside,
            addresses=stack.addresses(name, settings) if name in outside else {},
        )
        for name in stack.NAMES
    )


def _row(process: ProcessStatus, settings: Settings, state: State, now_ms: int) -> Row:
    row = Row(
        name=process.name,
        state=process.state,
        since_ms=process.since_ms,
        outside=process.outside,
        pid=process.pid,
        addresses=process.addresses,
        version=process.version,
        restarts=process.restarts,
        reason=process.reason,
    )
    replace = msgspec.structs.replace
    if process.name in stack.OWN:
        report = read_health(state.health(process.name))
        if report is None or report.pid != process.pid:
            return row
        return replace(row, health=report.values, said_ms=report.at_ms)
    if process.state != "up" and not process.outside:
        return row
    try:
        row = replace(row, state="up", version=stack.probe(process.name, settings, _TIMEOUT_S), reason="")
    except NotReady as error:
        return replace(row, state="away" if process.outside else "silent", reason=str(error))
    try:
        values, lags = _holdings(process.name, settings)
    except Exception as error:  # whatever client said it: the server answers, but not this
        return replace(row, reason=f"{type(error).__name__}: {error}")
    return replace(row, health=values, lags=lags, said_ms=now_ms)


def _holdings(name: str, settings: Settings) -> tuple[dict[str, Value], tuple[Lag, ...]]:
    """How much a server holds, and (Kafka) how far its readers are."""
    if name == "kafka":
        held = holdings(settings.kafka, _TIMEOUT_S)
        return {"records": held.records}, held.lags
    if name == "redis":
        import redis

        host, port = settings.features.redis.rsplit(":", 1)
        with redis.Redis(host=host, port=int(port), socket_timeout=_TIMEOUT_S) as client:
            return {"keys": int(client.dbsize())}, ()
    if name == "clickhouse":
        where = settings.serving.clickhouse
        query = f"SELECT sum(total_rows) FROM system.tables WHERE database = '{where.database}' FORMAT TSVRaw"
        headers = {"X-ClickHouse-User": where.user, "X-ClickHouse-Key": where.password}
        rows = _get(where.address, f"/?query={quote(query)}", headers).strip()
        return {"rows": int(rows) if rows.isdigit() else 0}, ()
    stats = msgspec.json.decode(_get(settings.serving.triton.http, "/v2/models/stats", {}))
    return {"requests": sum(int(model["inference_count"]) for model in stats["model_stats"])}, ()


def _get(address: str, path: str, headers: dict[str, str]) -> str:
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
        if response.status != http.client.OK:
            raise OSError(f"HTTP {response.status}: {text[:200]}")
        return text
    finally:
        connection.close()
