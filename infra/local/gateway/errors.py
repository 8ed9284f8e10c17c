"""ClickHouse's error codes as its HTTP interface reports them."""

import re

ACCESS_DENIED = 497
AUTHENTICATION_FAILED = 516
BAD_ARGUMENTS = 36
NOT_IMPLEMENTED = 48
READONLY = 164
SESSION_IS_LOCKED = 373
SYNTAX_ERROR = 62
UNKNOWN_COMPRESSION_METHOD = 89
UNKNOWN_EXCEPTION = 1002

_CODE = re.compile(r"Code: (\d+)\. ")
# The statuses that ClickHouse's HTTP handler gives (exceptionCodeToHTTPStatus); everything else is a 500.
_STATUS = {
    **dict.fromkeys((ACCESS_DENIED, READONLY), 403),
    **dict.fromkeys((AUTHENTICATION_FAILED, 192, 193, 194), 401),
    **dict.fromkeys((60, 81, 82, 115, 46), 404),
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 47, 50, 53, 62, 70, 72, 89, 117, 456, 457), 400),
    NOT_IMPLEMENTED: 501,
    SESSION_IS_LOCKED: 409,
}


class GatewayError(Exception):
    """An error with the code that a ClickHouse server would report."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """The HTTP status of this error."""
        return _STATUS.get(self.code, 500)


def refused(code: int, name: str, message: str) -> GatewayError:
    """An error of the gateway itself, worded as the engine words its own."""
    return GatewayError(code, f"Code: {code}. DB::Exception: {message} ({name})")


def from_engine(error: Exception) -> GatewayError:
    """The engine's error with its code taken from the text, which is where chDB leaves it."""
    text = str(error)
    found = _CODE.search(text)
    if found is None:
        return refused(UNKNOWN_EXCEPTION, "UNKNOWN_EXCEPTION", text)
    return GatewayError(int(found.group(1)), text[found.start() :])
