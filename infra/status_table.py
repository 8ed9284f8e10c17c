"""The terminal picture of a status report."""

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from infra.local.state import StackStatus
from infra.status import Report, Row

# A process that works reports at least this often.
_SILENT_MS = 15_000
_STYLES = {"up": "green", "down": "dim", "starting": "yellow", "waiting": "yellow", "stopping": "yellow"}


def status_table(report: Report) -> RenderableType:
    """One line per server and process, what each says about its work, and how far the consumer groups are behind.

    Figures that are zero are left out here (all are in the JSON form).
    """
    table = _table(
        f"{report.phase}: {report.state_dir}", "process", "state", "since", "pid", "address", "version", "restarts"
    )
    says = _table("what they say")
    for row in report.processes:
        table.add_row(
            row.name,
            _state(row.state),
            ago(report.at_ms - row.since_ms) if row.state != "down" else "",
            "outside" if row.outside else str(row.pid or ""),
            _addresses(row.addresses),
            row.version,
            str(row.restarts or ""),
        )
        if words := _says(row, report.at_ms):
            says.add_row(row.name, words)
    behind = _table("behind on Kafka (records)")
    for lag in (lag for row in report.processes for lag in row.lags):
        behind.add_row(escape(lag.group), escape(lag.topic), f"{lag.records:,}")
    return Group(table, *_alarms(report), *(part for part in (says, behind) if part.row_count))


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD if columns else None,
        show_header=bool(columns),
        padding=(0, 1),
    )
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def progress_table(status: StackStatus | None) -> RenderableType:
    """What a stack that starts or stops is doing, from the supervisor's word alone."""
    if status is None:
        return Text("starting the supervisor")
    table = Table(box=None, show_header=False, padding=(0, 1))
    for process in status.processes:
        addresses = _addresses(process.addresses) if process.state == "up" else ""
        table.add_row(process.name, _state(process.state), addresses, escape(process.reason))
    return table


def ago(duration_ms: int) -> str:
    """A duration in its two largest units: `3 h 12 min`."""
    seconds = max(duration_ms, 0) // 1000
    units = [(seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    first = next((k for k, (count, _) in enumerate(units) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count) or "0 s"


def _state(state: str) -> Text:
    return Text(state, style=_STYLES.get(state, "red"))


def _alarms(report: Report) -> list[Text]:
    """One line per process that says of itself that something is wrong."""
    said = [(row.name, row.health.get("alarm")) for row in report.processes]
    return [Text(f"ALARM {name}: {words}", style="bold red") for name, words in said if words]


def _addresses(addresses: dict[str, str]) -> str:
    """Addresses without the host where that is this machine: a port says all there."""
    short = {kind: address.removeprefix("127.0.0.1") for kind, address in addresses.items()}
    return escape("\n".join(address if len(short) == 1 else f"{address} {kind}" for kind, address in short.items()))


def _says(row: Row, at_ms: int) -> str:
    words = [row.reason] if row.reason else []
    for name, value in row.health.items():
        if name.startswith("drift_") and isinstance(value, int) and value:
            words.append(f"{name} {ago(at_ms - value)} ago")
        elif value and name != "alarm":
            words.append(f"{name} {_number(value)}")
    if row.said_ms is not None and at_ms - row.said_ms > _SILENT_MS:
        words.append(f"(said {ago(at_ms - row.said_ms)} ago)")
    return escape(", ".join(words))


def _number(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
