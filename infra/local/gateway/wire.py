"""The HTTP request of a ClickHouse client taken apart: arguments, settings, compression, credentials."""

import base64
import binascii
import gzip
import hmac
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import lz4.frame
import msgspec

from infra.local.gateway.errors import (
    AUTHENTICATION_FAILED,
    NOT_IMPLEMENTED,
    UNKNOWN_COMPRESSION_METHOD,
    GatewayError,
    refused,
)

# Arguments that speak to the HTTP handler and are no settings of the query.
# client_protocol_version would change the Native format into one that chDB's inserter does not read.
_RESERVED = frozenset(
    {
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "stacktrace",
        "role",
        "buffer_size",
        "wait_end_of_query",
        "client_protocol_version",
        "close_session",
        "enable_http_compression",
        "http_zlib_compression_level",
        "network_compression_method",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "add_http_cors_header",
        "compress",
        "decompress",
    }
)
_EXTERNAL = ("_format", "_structure", "_types")


class Credentials(msgspec.Struct, frozen=True):
    """The one user that the gateway knows; an empty password lets everybody in, as ClickHouse's default user."""

    user: str = "default"
    password: str = ""

    def check(self, arguments: Mapping[str, str], headers: Mapping[str, str]) -> None:
        """Raise AUTHENTICATION_FAILED unless the request carries these credentials (header, basic or argument)."""
        user, password = _credentials(arguments, headers)
        same = hmac.compare_digest(user.encode(), self.user.encode())
        if not (same and hmac.compare_digest(password.encode(), self.password.encode())):
            raise refused(
                AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                f"{user}: Authentication failed: password is incorrect, or there is no user with such name.",
            )


def _credentials(arguments: Mapping[str, str], headers: Mapping[str, str]) -> tuple[str, str]:
    if "x-clickhouse-user" in headers:
        return headers["x-clickhouse-user"], headers.get("x-clickhouse-key", "")
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return arguments.get("user", "default"), arguments.get("password", "")


def settings(arguments: Mapping[str, str], external: frozenset[str]) -> dict[str, str]:
    """The arguments that are settings of the query; those that describe an external table are not."""
    described = {name + suffix for name in external for suffix in _EXTERNAL}
    return {
        name: value
        for name, value in arguments.items()
        if name not in _RESERVED and not name.startswith("param_") and name not in described
    }


def parameters(arguments: Mapping[str, str]) -> dict[str, str]:
    """The values of `{name:Type}` in the query."""
    return {name[len("param_") :]: value for name, value in arguments.items() if name.startswith("param_")}


def reject_block_compression(arguments: Mapping[str, str]) -> None:
    """`compress=1` and `decompress=1` are ClickHouse's own block format, which Content-Encoding replaces here."""
    for name in ("compress", "decompress"):
        if arguments.get(name, "0") not in ("", "0", "false"):
            message = f"{name}={arguments[name]} is not served here; use Content-Encoding and Accept-Encoding"
            raise refused(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message)


def decompress(body: bytes, encoding: str) -> bytes:
    """A request's body as it was before `Content-Encoding`.

    Raises:
        GatewayError: an unknown encoding, or a body that is not what its encoding says.
    """
    try:
        match encoding.lower().strip():
            case "" | "identity":
                return body
            case "lz4":
                return _all_frames(body, lz4.frame.LZ4FrameDecompressor)
            case "gzip":
                return gzip.decompress(body)
            case "deflate":
                return _all_frames(body, zlib.decompressobj)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise _compression(f"the body is not valid {encoding}: {error}") from error
    raise _compression(f"Unknown HTTP content encoding: {encoding}; lz4, gzip and deflate are known")


def _all_frames(body: bytes, decompressor: Callable[[], Any]) -> bytes:
    """Every frame of the body: clients send one per block, and the libraries' `decompress` stops after the first."""
    parts = []
    while body:
        frame = decompressor()
        parts.append(frame.decompress(body))
        if not frame.eof:
            raise EOFError("it ends in the middle of a frame")
        body = frame.unused_data or b""
    return b"".join(parts)


def compress(body: bytes, accepted: str, arguments: Mapping[str, str]) -> tuple[bytes, str]:
    """(body, encoding) in the first of lz4 and gzip that the client accepts, where it asked for compression."""
    if arguments.get("enable_http_compression", "0") not in ("1", "true"):
        return body, ""
    names = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    if "lz4" in names:
        return bytes(lz4.frame.compress(body)), "lz4"
    if "gzip" in names:
        return gzip.compress(body, compresslevel=3), "gzip"
    return body, ""


def _compression(message: str) -> GatewayError:
    return refused(UNKNOWN_COMPRESSION_METHOD, "UNKNOWN_COMPRESSION_METHOD", message)
