"""The settings file that ships says the truth, and all of it."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra import settings
from infra.settings import Settings

FILE = Path(__file__).resolve().parents[3] / "freshet.toml"
# Said once, and handed down to the other packages.
HANDED_DOWN = ("kafka", "tasks", "join", "features", "learning")
SAID_IN = (("streams", "tasks"), ("streams", "join"))
# Their entries have keys of their own.
LISTS = ("streams.tasks", "streams.labels", "serving.experiments")


def names(value: msgspec.Struct, path: str = "") -> Iterator[tuple[str, str]]:
    """(table, key) of every setting that a user may set."""
    for name in value.__struct_fields__:
        found = getattr(value, name)
        if path and name in HANDED_DOWN and (path, name) not in SAID_IN:
            continue
        if isinstance(found, msgspec.Struct):
            yield from names(found, f"{path}.{name}" if path else name)
        else:
            yield path, name


def written(text: str) -> dict[str, set[str]]:
    """The keys that stand in each table, behind a # or not."""
    found: dict[str, set[str]] = {"": set()}
    table = ""
    for line in text.splitlines():
        if heading := re.match(r"(?:# )?(\[+)([\w.]+)\]", line):
            table = heading[2]
            parent, _, name = table.rpartition(".")
            found.setdefault(parent, set()).add(name)
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            found.setdefault(table, set()).add(key[1])
    return found


def test_the_shipped_file_holds_the_defaults() -> None:
    assert settings.load(FILE) == settings.parse("", "freshet.toml", FILE.parent)


def test_every_setting_stands_in_the_shipped_file() -> None:
    there = written(FILE.read_text())
    assert [f"{table}.{key}" for table, key in names(Settings()) if key not in there.get(table, set())] == []


def test_all_that_stands_in_the_shipped_file_is_a_setting() -> None:
    """Also what stands behind a #, which no parser sees."""
    there, known = written(FILE.read_text()), set(names(Settings()))
    wrong = [
        f"{table}.{key}"
        for table, keys in there.items()
        for key in keys
        if table not in LISTS and (table, key) not in known and f"{table}.{key}".lstrip(".") not in there
    ]
    assert wrong == []
