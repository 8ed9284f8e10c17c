"""What a context may hold: whoever logs it must be able to write it, and every reader of the log to read it."""

from typing import Any, Final

MOST_LEVELS: Final = 32
"""Readers decode with more of the stack in use than whoever wrote, and must not come to its end."""

# The integers of msgpack, in which impressions and examples travel.
_LOWEST, _HIGHEST = -(2**63), 2**64 - 1


class BadContext(ValueError):
    """A context that cannot be logged; the message says where in it and why."""


def check(context: dict[str, Any]) -> None:
    """Raises BadContext where a context, as decoded from JSON, cannot be written in msgpack or is nested too deep."""
    _check(context, "$", 1)


def _check(value: Any, path: str, level: int) -> None:
    if type(value) is int and not _LOWEST <= value <= _HIGHEST:
        raise BadContext(f"has at `{path}` an integer that 64 bits cannot hold")
    if not isinstance(value, dict | list):
        return
    if level > MOST_LEVELS:
        raise BadContext(f"is nested too deep, must have at most {MOST_LEVELS} levels")
    for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list | int):
            _check(inner, f"{path}.{name}" if isinstance(value, dict) else f"{path}[{name}]", level + 1)
