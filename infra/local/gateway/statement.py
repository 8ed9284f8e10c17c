"""One SQL statement as the gateway must understand it: its kind, its formats, and where inserted data begins."""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from infra.local.gateway.errors import SYNTAX_ERROR, refused

# ClickHouse's own lexer (src/Parsers/Lexer.cpp): comments, strings with backslashes or doubled quotes,
# heredocs, and identifiers in backquotes, double quotes or typographic double quotes.
_TOKEN = re.compile(
    rb"""
    (?P<blank>\s+ | --[^\n]* | \#[\ !][^\n]* | /\*.*?\*/)
  | (?P<string>'(?:[^'\\]|\\.|'')*' | \xe2\x80\x98.*?\xe2\x80\x99)
  | (?P<heredoc>\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
  | (?P<quoted>`(?:[^`\\]|\\.|``)*` | "(?:[^"\\]|\\.|"")*" | \xe2\x80\x9c.*?\xe2\x80\x9d)
  | (?P<word>[A-Za-z_][A-Za-z0-9_$]*)
  | (?P<number>[0-9][0-9A-Za-z_.]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_QUERY_WORDS = frozenset({"SELECT", "WITH", "FROM", "EXPLAIN", "WATCH"})


class Token(NamedTuple):
    """A token that carries meaning: comments and blanks are gone."""

    kind: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return self.text

    def is_word(self, *words: str) -> bool:
        """Whether this is one of these keywords, in any case."""
        return self.kind == "word" and self.text.upper() in words


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A statement: `data` is None unless the statement is an INSERT that carries its rows."""

    kind: str
    sql: bytes
    tokens: tuple[Token, ...]
    output_format: str | None = None
    input_format: str | None = None
    data: bytes | None = None


def tokens(text: bytes) -> Iterator[Token]:
    """The tokens of `text`; an identifier in quotes comes without them."""
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        kind = "heredoc" if kind == "tag" else kind
        if kind == "blank":
            continue
        value = match.group().decode("utf-8", "replace")
        if kind == "quoted":
            value = value[1:-1]
        yield Token(kind, value, match.start(), match.end())


def _insert_data(text: bytes) -> tuple[list[Token], int, str, int] | None:
    """(tokens of the head, its end, format, start of the data) where `text` is an INSERT with a data clause."""
    seen: list[Token] = []
    depth = 0
    stream = tokens(text)
    for token in stream:
        if depth == 0 and seen and not _names_a_table(seen[-1]):
            if token.is_word("VALUES"):
                return seen, token.start, "Values", token.end
            if token.is_word("FORMAT"):
                name = next(stream, None)
                if name is None:
                    raise refused(SYNTAX_ERROR, "SYNTAX_ERROR", "FORMAT without a name")
                return seen, token.start, name.text, name.end
            if token.is_word(*_QUERY_WORDS):
                return None
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            depth -= 1
        seen.append(token)
    return None


def _names_a_table(token: Token) -> bool:
    return token.is_word("INTO", "TABLE", "FUNCTION") or token.text == "."


def _skip_line(data: bytes) -> bytes:
    """What follows the FORMAT clause belongs to the data from the next line on, as in ClickHouse's parser."""
    at = 0
    while at < len(data) and data[at : at + 1] in (b" ", b"\t", b"\r"):
        at += 1
    if data[at : at + 1] == b";":
        at += 1
    if data[at : at + 1] == b"\n":
        at += 1
    return data[at:]


def parse(query: bytes, body: bytes = b"") -> Statement:
    """Read one statement from the `query` argument and the request's body, which ClickHouse joins with a newline.

    Raises:
        GatewayError: SYNTAX_ERROR when there is no statement or more than one.
    """
    first = next(tokens(query or body), None)
    if first is None:
        raise refused(SYNTAX_ERROR, "SYNTAX_ERROR", "Empty query")
    kind = first.text.upper()
    if kind == "INSERT":
        text, rest = (query, body) if query.strip() else (body, b"")
        found = _insert_data(text)
        if found is None and rest:
            text, rest = text + b"\n" + rest, b""
            found = _insert_data(text)
        if found is not None:
            head, end, form, start = found
            data = _skip_line(text[start:]) + rest
            if form == "Values":
                data = data.strip().removesuffix(b";")
            return Statement(kind=kind, sql=text[:end], tokens=tuple(head), input_format=form, data=data)
    text = query + b"\n" + body if query.strip() and body else query or body
    found_tokens = tuple(tokens(text))
    for token, following in itertools.pairwise(found_tokens):
        if token.kind == "mark" and token.text == ";" and following.text != ";":
            raise refused(SYNTAX_ERROR, "SYNTAX_ERROR", "Multi-statements are not allowed")
    return Statement(kind=kind, sql=text, tokens=found_tokens, output_format=_output_format(found_tokens))


def _output_format(found: tuple[Token, ...]) -> str | None:
    depth, name = 0, None
    for token, following in itertools.pairwise(found):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.is_word("FORMAT") and following.kind == "word":
            name = following.text
    return name
