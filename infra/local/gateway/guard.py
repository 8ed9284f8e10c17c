"""What the gateway refuses: anything that reaches outside the database folder, or that chDB cannot reopen."""

import itertools
from collections.abc import Iterable

from infra.local.gateway.errors import ACCESS_DENIED, GatewayError, refused
from infra.local.gateway.statement import Statement, Token, tokens

# Table functions that read only what is in the database or make rows up. All others are refused, so that a
# function which a new engine brings is closed until someone looked at it.
SAFE_TABLE_FUNCTIONS = frozenset(
    {
        "cluster",
        "clusterallreplicas",
        "dictionary",
        "format",
        "fuzzjson",
        "fuzzquery",
        "generate_series",
        "generaterandom",
        "generateseries",
        "input",
        "loop",
        "merge",
        "mergetreeindex",
        "mergetreeprojection",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "sqlstandardvalues",
        "values",
        "view",
        "viewexplain",
        "viewifpermitted",
        "zeros",
        "zeros_mt",
    }
)
# ENGINE=Kafka leaves metadata behind with which the path does not open again; the others that are missing
# here reach files or other hosts.
SAFE_ENGINES = frozenset(
    {
        "aggregatingmergetree",
        "alias",
        "atomic",
        "buffer",
        "coalescingmergetree",
        "collapsingmergetree",
        "generaterandom",
        "graphitemergetree",
        "join",
        "log",
        "loop",
        "materializedview",
        "memory",
        "merge",
        "mergetree",
        "null",
        "replacingmergetree",
        "set",
        "stripelog",
        "summingmergetree",
        "tinylog",
        "versionedcollapsingmergetree",
        "view",
    }
)
# Scalar functions and clauses written like functions that read files, run programs or open paths.
UNSAFE_CALLS = frozenset({"file", "disk", "source", "catboostevaluate", "executable", "url", "python"})
UNSAFE_SYSTEM = frozenset({"SHUTDOWN", "KILL", "SUSPEND"})


class Guard:
    """Checks statements against the lists above and the table functions that the engine has."""

    def __init__(self, table_functions: Iterable[str]) -> None:
        self._unsafe = (frozenset(n.lower() for n in table_functions) - SAFE_TABLE_FUNCTIONS) | UNSAFE_CALLS

    def check(self, statement: Statement) -> None:
        """Raise ACCESS_DENIED where the statement reaches outside the database."""
        found = statement.tokens
        if statement.input_format == "Values" and statement.data:
            # The rows of VALUES are expressions, which the engine evaluates.
            found = (*found, *tokens(statement.data))
        self._check_calls(found)
        self._check_engines(found)
        _check_clauses(statement.kind, found)

    def _check_calls(self, found: tuple[Token, ...]) -> None:
        for token, following in itertools.pairwise(found):
            if following.text != "(" or token.kind not in ("word", "quoted"):
                continue
            name = token.text.lower()
            if name in self._unsafe or (token.kind == "quoted" and "\\" in name):
                raise _denied(f"the function {token.text} is not allowed through this gateway")

    def _check_engines(self, found: tuple[Token, ...]) -> None:
        for index, token in enumerate(found):
            if not token.is_word("ENGINE"):
                continue
            after = found[index + 1 : index + 3]
            # `engine` is also a column of system.tables: only `ENGINE = Name` and `ENGINE Name(` declare one.
            named = after[1] if len(after) == 2 and after[0].text == "=" else after[0] if after else None
            if named is None or named.kind not in ("word", "quoted"):
                continue
            creates = found[0].is_word("CREATE", "ATTACH", "REPLACE", "ALTER")
            if creates and named.text.lower() not in SAFE_ENGINES:
                raise _denied(f"the engine {named.text} is not allowed through this gateway")


def _check_clauses(kind: str, found: tuple[Token, ...]) -> None:
    for token, following in itertools.pairwise(found):
        if (token.is_word("INTO") and following.is_word("OUTFILE")) or (
            token.is_word("FROM") and following.is_word("INFILE")
        ):
            raise _denied(f"{token.text} {following.text} is not allowed through this gateway")
    words = [token.text.upper() for token in found[:3]]
    if kind in ("BACKUP", "RESTORE", "ATTACH") or (kind == "CREATE" and "DICTIONARY" in words):
        raise _denied(f"{' '.join(words[:2])} is not allowed through this gateway")
    if kind == "CREATE" and "NAMED" in words:
        raise _denied("named collections are not allowed through this gateway")
    if kind in ("DROP", "DETACH") and words[1:2] == ["DATABASE"] and any(t.text == "default" for t in found):
        # Every handle opens in `default`: without it no statement would run again, not even its creation.
        raise _denied("the database default cannot be dropped through this gateway")
    if kind == "SYSTEM" and UNSAFE_SYSTEM & set(words):
        raise _denied(f"{' '.join(words[:2])} is not allowed through this gateway")


def _denied(message: str) -> GatewayError:
    return refused(ACCESS_DENIED, "ACCESS_DENIED", message)
