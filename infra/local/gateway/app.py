"""The HTTP interface: `/ping`, and `/` with a query in the argument, the body or a form."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from infra.local.gateway import statement, wire
from infra.local.gateway.engine import Answer, Engine, External, Request
from infra.local.gateway.errors import BAD_ARGUMENTS, GatewayError, refused
from infra.local.gateway.sessions import TIMEOUT_S, Sessions

# One form field may hold as much as a query may; files are spooled by starlette.
_FORM_FIELD_BYTES = 64 * 1024 * 1024
_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8",
    "CSVWithNames": "text/csv; charset=UTF-8",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
}


class Gateway:
    """Serves one engine."""

    def __init__(self, engine: Engine, credentials: wire.Credentials, *, threads: int) -> None:
        self._engine = engine
        self._credentials = credentials
        self._sessions = Sessions(engine)
        self._threads = threads
        self._limiter: anyio.CapacityLimiter | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Close every handle at the end: the engine then leaves nothing to be repaired."""
        self._limiter = anyio.CapacityLimiter(self._threads)
        try:
            yield
        finally:
            self._sessions.close()
            self._engine.close()

    async def ping(self, _: HttpRequest) -> Response:
        """ClickHouse's liveness answer."""
        return PlainTextResponse("Ok.\n")

    async def query(self, http: HttpRequest) -> Response:
        """Run the statement that the request carries."""
        query_id = http.query_params.get("query_id") or str(uuid.uuid4())
        try:
            arguments, request = await self._read(http)
            session_id = arguments.get("session_id")
            timeout_s = _seconds(arguments.get("session_timeout", str(TIMEOUT_S)))
            answer = await anyio.to_thread.run_sync(
                self._sessions.run, request, session_id, timeout_s, limiter=self._limiter
            )
        except GatewayError as error:
            return self._refuse(error, query_id)
        return self._respond(answer, arguments, http.headers, query_id)

    async def _read(self, http: HttpRequest) -> tuple[dict[str, str], Request]:
        arguments = dict(http.query_params)
        self._credentials.check(arguments, http.headers)
        wire.reject_block_compression(arguments)
        files: dict[str, bytes] = {}
        if http.headers.get("content-type", "").startswith("multipart/form-data"):
            files = await _form(http, arguments)
            body = b""
        else:
            body = wire.decompress(await http.body(), http.headers.get("content-encoding", ""))
        parsed = statement.parse(arguments.get("query", "").encode(), body)
        return arguments, Request(
            statement=parsed,
            settings=wire.settings(arguments, frozenset(files)),
            parameters=wire.parameters(arguments),
            database=arguments.get("database") or http.headers.get("x-clickhouse-database"),
            default_format=arguments.get("default_format") or http.headers.get("x-clickhouse-format") or "TabSeparated",
            readonly=http.method == "GET",
            external=tuple(_external(name, data, arguments) for name, data in files.items()),
        )

    def _refuse(self, error: GatewayError, query_id: str) -> Response:
        body = f"{error} (version {self._engine.version} (official build))\n"
        headers = {"X-ClickHouse-Exception-Code": str(error.code), **self._headers(query_id)}
        if error.status == 401:
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
        return PlainTextResponse(body, status_code=error.status, headers=headers)

    def _respond(
        self, answer: Answer, arguments: Mapping[str, str], headers: Mapping[str, str], query_id: str
    ) -> Response:
        body, encoding = wire.compress(answer.body, headers.get("accept-encoding", ""), arguments)
        summary = {
            "read_rows": str(answer.read_rows),
            "read_bytes": str(answer.read_bytes),
            "written_rows": str(answer.written_rows),
            "written_bytes": str(answer.written_bytes),
            "result_rows": str(answer.result_rows),
            "elapsed_ns": str(int(answer.elapsed_s * 1e9)),
        }
        out = {"X-ClickHouse-Summary": msgspec.json.encode(summary).decode(), **self._headers(query_id)}
        if answer.body:
            # A client tells a statement with a result from one without by this header.
            out["X-ClickHouse-Format"] = answer.format
        if encoding:
            out["Content-Encoding"] = encoding
        media_type = _CONTENT_TYPES.get(answer.format, "application/octet-stream" if answer.body else "text/plain")
        return Response(body, headers=out, media_type=media_type)

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Server-Display-Name": "chdb",
            "X-ClickHouse-Timezone": self._engine.timezone,
        }


async def _form(http: HttpRequest, arguments: dict[str, str]) -> dict[str, bytes]:
    """Add the form's plain fields to the arguments; return its files."""
    files: dict[str, bytes] = {}
    async with http.form(max_part_size=_FORM_FIELD_BYTES) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                arguments[name] = value
    return files


def _external(name: str, data: bytes, arguments: Mapping[str, str]) -> External:
    structure = arguments.get(f"{name}_structure")
    if structure is None:
        types = arguments.get(f"{name}_types")
        if types is None:
            message = f"the external table {name} needs {name}_structure or {name}_types"
            raise refused(BAD_ARGUMENTS, "BAD_ARGUMENTS", message)
        structure = ", ".join(f"_{index} {kind}" for index, kind in enumerate(types.split(","), start=1))
    return External(name, structure, arguments.get(f"{name}_format", "TabSeparated"), data)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise refused(BAD_ARGUMENTS, "BAD_ARGUMENTS", f"session_timeout: {text!r} is no number") from error


def application(engine: Engine, credentials: wire.Credentials, *, threads: int = 4) -> Starlette:
    """The ASGI application that serves `engine`.

    Args:
        engine: Closed when the application ends.
        credentials: Who may ask.
        threads: Statements that run at once; the others wait.
    """
    gateway = Gateway(engine, credentials, threads=threads)
    return Starlette(
        routes=[
            Route("/ping", gateway.ping, methods=["GET", "HEAD"]),
            Route("/replicas_status", gateway.ping, methods=["GET", "HEAD"]),
            Route("/", gateway.query, methods=["GET", "POST"]),
        ],
        lifespan=gateway.lifespan,
    )
