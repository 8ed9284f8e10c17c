"""The chDB engine: a fresh handle for every request, and one that stays open so that the data stays open."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chdb
import msgspec

from infra.local.gateway.errors import BAD_ARGUMENTS, READONLY, GatewayError, from_engine, refused
from infra.local.gateway.guard import Guard
from infra.local.gateway.statement import Statement

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_READS = frozenset({"SELECT", "WITH", "FROM", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "("})


class External(msgspec.Struct, frozen=True):
    """A table that travels with a query and lives as long as it."""

    name: str
    structure: str
    format: str
    data: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A statement with everything that the HTTP request said about how to run it."""

    statement: Statement
    settings: Mapping[str, str] = {}
    parameters: Mapping[str, str] = {}
    database: str | None = None
    default_format: str = "TabSeparated"
    readonly: bool = False
    external: tuple[External, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes of a result and the counts that ClickHouse reports in its summary header."""

    body: bytes
    format: str
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    elapsed_s: float = 0.0


class Session:
    """A handle that outlives one request: SET, USE and temporary tables stay."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.lock = threading.Lock()


def quote(text: str) -> str:
    """A ClickHouse string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def quote_name(name: str) -> str:
    """A ClickHouse identifier in backquotes."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


class Engine:
    """Owns a database folder; every method may be called from any thread.

    A new handle costs about 0.4 ms and is a session of its own: the settings of one request, an
    insert_deduplication_token above all, can never leak into the next one.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = str(path.resolve())
        self._base = chdb.connect(self._path)
        self._confine(path)
        self.version = str(self._text("SELECT version()"))
        self.timezone = str(self._text("SELECT timezone()"))
        functions = str(self._text("SELECT arrayStringConcat(groupArray(name), ',') FROM system.table_functions"))
        self._guard = Guard(functions.split(","))

    def _confine(self, path: Path) -> None:
        """Mount `default` as the plain Atomic database that it is on disk.

        chDB lays it over the file system at every start: `SELECT * FROM "/etc/passwd"` would read that file, and no
        list of functions could refuse it.
        """
        if self._text("SELECT engine FROM system.databases WHERE name = 'default'") == "Atomic":
            return
        self._base.query("DETACH DATABASE default")
        metadata = path / "metadata"
        if (metadata / "default").exists():
            self._base.query("ATTACH DATABASE default")
        else:
            # The folder is made with the first table; a definition without it does not attach.
            (metadata / "default.sql").unlink(missing_ok=True)
            self._base.query("CREATE DATABASE default ENGINE = Atomic")

    def _text(self, sql: str) -> str:
        answer: bytes = self._base.query(sql, "TSVRaw").bytes()
        return answer.decode().strip()

    def open_session(self) -> Session:
        """A handle of its own; the caller closes it with `close_session`."""
        return Session(chdb.connect(self._path))

    def close_session(self, session: Session) -> None:
        """Close a session's handle; its temporary tables go with it."""
        session.handle.close()

    def close(self) -> None:
        """Close the data; the engine writes out what it holds."""
        self._base.close()

    def run(self, request: Request) -> Answer:
        """Run a request on a handle of its own.

        Raises:
            GatewayError: what the engine or the guard refused, with ClickHouse's code.
        """
        self._guard.check(request.statement)
        handle = chdb.connect(self._path)
        try:
            return self._run(handle, request)
        finally:
            handle.close()

    def run_in(self, session: Session, request: Request) -> Answer:
        """Run a request in a session and give the session its own settings back afterwards."""
        self._guard.check(request.statement)
        if request.readonly:
            # A session's handle cannot leave readonly again, so here the statement itself is looked at.
            _require_reading(request.statement)
            request = msgspec.structs.replace(request, readonly=False)
        with session.lock:
            before = self._settings_of(session.handle, request)
            try:
                return self._run(session.handle, request)
            finally:
                for name, value in before.items():
                    session.handle.query(f"SET {name} = {quote(value)}")

    def _settings_of(self, handle: Any, request: Request) -> dict[str, str]:
        if not request.settings:
            return {}
        listed = ", ".join(quote(name) for name in request.settings)
        sql = f"SELECT name, value FROM system.settings WHERE name IN ({listed})"
        rows: bytes = handle.query(sql, "JSONCompactEachRow").bytes()
        return dict(msgspec.json.decode(line, type=tuple[str, str]) for line in rows.splitlines())

    def _run(self, handle: Any, request: Request) -> Answer:
        try:
            self._prepare(handle, request)
            if request.statement.data is not None:
                return _insert(handle, request.statement)
            return _query(handle, request)
        except GatewayError:
            raise
        except Exception as error:  # chDB raises RuntimeError and ChdbError with the code in the text
            raise from_engine(error) from error

    def _prepare(self, handle: Any, request: Request) -> None:
        if request.database:
            handle.query(f"USE {quote_name(request.database)}")
        for table in request.external:
            handle.query(f"CREATE TEMPORARY TABLE {quote_name(table.name)} ({table.structure})")
            inserter = handle.send_insert(f"INSERT INTO {quote_name(table.name)}", table.format)
            inserter.append(table.data)
            inserter.finish()
        # `readonly` last: it forbids changing the others.
        for name, value in sorted(request.settings.items(), key=lambda item: item[0] == "readonly"):
            if not _SETTING.fullmatch(name):
                raise refused(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"{name!r} is not a setting's name")
            handle.query(f"SET {name} = {quote(value)}")
        if request.readonly:
            # 2: nothing may be written, settings may still be given with the query.
            handle.query("SET readonly = 2")


def _require_reading(statement: Statement) -> None:
    writes = any(token.is_word("INSERT") for token in statement.tokens)
    if statement.kind not in _READS or writes:
        raise refused(READONLY, "READONLY", "Cannot execute query in readonly mode")


def _query(handle: Any, request: Request) -> Answer:
    sql = request.statement.sql.decode("utf-8")
    result = handle.query(sql, request.default_format, params=dict(request.parameters))
    return Answer(
        body=result.bytes() or b"",
        format=request.statement.output_format or request.default_format,
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
        elapsed_s=result.elapsed(),
    )


def _insert(handle: Any, statement: Statement) -> Answer:
    """Rows go through the streaming inserter: data behind an INSERT in one text is cut at a blank line."""
    inserter = handle.send_insert(statement.sql.decode("utf-8"), statement.input_format)
    try:
        if statement.data:
            inserter.append(statement.data)
        result = inserter.finish()
    finally:
        inserter.close()
    return Answer(
        body=b"",
        format="",
        written_rows=result.rows_written,
        written_bytes=result.bytes_written,
        result_rows=result.rows_written,
        elapsed_s=result.elapsed,
    )
