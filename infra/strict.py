"""Strict reading of settings: unknown keys are refused, and an error says where it is and what is allowed there."""

import enum
import math
import re
import types
import typing
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class SettingsError(Exception):
    """Settings that cannot be used; the message has the full path of what is wrong and what is allowed."""


def decode(data: dict[str, Any], as_type: type[T], source: str) -> T:
    """`data` (as parsed from TOML or JSON) as an `as_type`. Raises SettingsError; `source` names the file in it."""
    _refuse_unknown(data, as_type, "", source)
    _refuse_infinite(data, "", source)
    try:
        return msgspec.convert(data, as_type)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, data, as_type, source)) from error


def type_at(as_type: Any, path: str) -> Any:
    """The declared type at a path like `serving.experiments[1].policy`; None where there is none."""
    for key in _keys(path):
        as_type = _child(as_type, key)
        if as_type is None:
            return None
    return as_type


def _explain(error: msgspec.ValidationError, data: dict[str, Any], as_type: Any, source: str) -> str:
    words, _, where = str(error).partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    missing = re.search(r"missing required field `(\w+)`", words)
    if missing:
        return f"{source}: {_join(path, missing[1])} is missing"
    if words.startswith("`"):  # from a struct's own check, which names its field and what is allowed
        return f"{source}: {path + ': ' if path else ''}{words}"
    value = _value_at(data, path)
    return f"{source}: {path} = {_show(value)}: {_must(type_at(as_type, path), words)}"


def _must(expected: Any, words: str) -> str:
    allowed = _choices(expected)
    if allowed:
        return f"must be one of {', '.join(_show(choice) for choice in allowed)}"
    if "matching regex" in words and (described := _described(expected)):
        return f"must be {described}"
    return words[:1].lower() + words[1:]


def _refuse_unknown(data: Any, as_type: Any, path: str, source: str) -> None:
    as_type = _bare(as_type)
    if isinstance(data, dict) and isinstance(as_type, type) and issubclass(as_type, msgspec.Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(as_type)}
        for key, value in data.items():
            if key not in fields:
                known = ", ".join(fields)
                raise SettingsError(f"{source}: {_join(path, key)} is unknown: must be one of {known}")
            _refuse_unknown(value, fields[key], _join(path, key), source)
    elif isinstance(data, dict):
        for key, value in data.items():
            _refuse_unknown(value, _child(as_type, key), _join(path, key), source)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_unknown(value, _child(as_type, index), f"{path}[{index}]", source)


def _refuse_infinite(data: Any, path: str, source: str) -> None:
    """TOML knows `inf` and `nan`; no setting of ours means anything with them."""
    if isinstance(data, float) and not math.isfinite(data):
        raise SettingsError(f"{source}: {path} = {data}: must be a finite number")
    if isinstance(data, dict):
        for key, value in data.items():
            _refuse_infinite(value, _join(path, key), source)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            _refuse_infinite(value, f"{path}[{index}]", source)


def _described(as_type: Any) -> str:
    """What the type's own Meta says of it."""
    if typing.get_origin(as_type) is not typing.Annotated:
        return ""
    said = (meta.description for meta in typing.get_args(as_type)[1:] if isinstance(meta, msgspec.Meta))
    return next((text for text in said if text), "")


def _bare(as_type: Any) -> Any:
    """The type without Annotated and without an alternative None."""
    while typing.get_origin(as_type) is typing.Annotated:
        as_type = typing.get_args(as_type)[0]
    if typing.get_origin(as_type) in (typing.Union, types.UnionType):
        others = [arg for arg in typing.get_args(as_type) if arg is not types.NoneType]
        if len(others) == 1:
            return _bare(others[0])
    return as_type


def _child(as_type: Any, key: str | int) -> Any:
    as_type = _bare(as_type)
    if isinstance(as_type, type) and issubclass(as_type, msgspec.Struct):
        return next((f.type for f in msgspec.structs.fields(as_type) if f.encode_name == key), None)
    origin, args = typing.get_origin(as_type), typing.get_args(as_type)
    if origin is dict and len(args) == 2:
        return args[1]
    if origin in (list, tuple, set, frozenset) and args:
        if origin is tuple and len(args) > 1 and args[1] is not Ellipsis:
            return args[key] if isinstance(key, int) and key < len(args) else None
        return args[0]
    return None


def _choices(as_type: Any) -> tuple[Any, ...]:
    as_type = _bare(as_type)
    if typing.get_origin(as_type) is typing.Literal:
        return typing.get_args(as_type)
    if isinstance(as_type, type) and issubclass(as_type, enum.Enum):
        return tuple(member.value for member in as_type)
    if as_type is bool:
        return (True, False)
    return ()


def _keys(path: str) -> list[str | int]:
    return [int(index) if index else name for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)] if path else []


def _value_at(data: Any, path: str) -> Any:
    for key in _keys(path):
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _show(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()
