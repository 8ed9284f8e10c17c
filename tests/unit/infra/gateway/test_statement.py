"""The gateway reads a statement as ClickHouse does: where data begins, what is text, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.gateway.engine import quote, quote_name
from infra.local.gateway.errors import GatewayError, from_engine
from infra.local.gateway.guard import Guard
from infra.local.gateway.statement import parse, tokens

GUARD = Guard(["file", "url", "numbers", "s3", "aTableFunctionOfTomorrow"])


def texts(sql: str) -> list[str]:
    return [token.text for token in tokens(sql.encode())]


@given(st.binary(max_size=300), st.sampled_from(["Native", "JSONEachRow", "TSV"]))
def test_the_data_of_an_insert_is_kept_byte_for_byte(data: bytes, form: str) -> None:
    head = f"INSERT INTO t (a, b) SETTINGS x = 1 FORMAT {form}\n".encode()
    separate = parse(head.strip(), data)
    assert (separate.input_format, separate.data) == (form, data)
    together = parse(b"", head + data)
    assert (together.input_format, together.data) == (form, data)
    assert together.sql.split() == b"INSERT INTO t (a, b) SETTINGS x = 1".split()


@pytest.mark.parametrize(
    ("sql", "kind", "form", "data"),
    [
        ("INSERT INTO t VALUES (1, 'a;b'), (2, '\n\n');", "INSERT", "Values", b"(1, 'a;b'), (2, '\n\n')"),
        ("insert into format values (1)", "INSERT", "Values", b"(1)"),
        ("INSERT INTO db.values (format) FORMAT CSV\n1", "INSERT", "CSV", b"1"),
        ("INSERT INTO t SELECT 1 FORMAT x", "INSERT", None, None),
        ("INSERT INTO t WITH 1 AS x SELECT x", "INSERT", None, None),
        ("INSERT INTO t (`a)`) /* VALUES */ FORMAT TSV\n1\n", "INSERT", "TSV", b"1\n"),
        ("-- a comment\nSELECT 1", "SELECT", None, None),
        ("(SELECT 1)", "(", None, None),
    ],
)
def test_statements_are_taken_apart(sql: str, kind: str, form: str | None, data: bytes | None) -> None:
    found = parse(b"", sql.encode())
    assert (found.kind, found.input_format, found.data) == (kind, form, data)


def test_the_output_format_is_the_one_that_the_statement_names() -> None:
    assert parse(b"SELECT 1 FORMAT JSON").output_format == "JSON"
    assert parse(b"SELECT format('{}', 1)").output_format is None
    assert parse(b"SELECT * FROM (SELECT 1 FORMAT CSV)").output_format is None


def test_strings_comments_and_quotes_are_what_they_are_in_clickhouse() -> None:
    assert texts("a'it''s'b") == ["a", "'it''s'", "b"]
    assert texts(r"'it\'s'") == [r"'it\'s'"]
    assert texts('`a``b` "c" “d”') == ["a``b", "c", "d"]
    assert texts("a -- b\n# c\n/* d\n*/ e #f") == ["a", "e", "#", "f"]
    assert texts("$x$ ' $x$ $$ \" $$") == ["$x$ ' $x$", '$$ " $$']
    assert texts("x'4F' 1e5 _a1") == ["x", "'4F'", "1e5", "_a1"]


@pytest.mark.parametrize("sql", ["", "  ", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE t;"])
def test_no_statement_and_two_are_refused(sql: str) -> None:
    with pytest.raises(GatewayError) as refused:
        parse(b"", sql.encode())
    assert (refused.value.code, refused.value.status) == (62, 400)


def test_one_statement_may_end_with_semicolons() -> None:
    assert parse(b"SELECT 1;;\n").kind == "SELECT"
    assert parse(b"SELECT ';' -- ; x\n").kind == "SELECT"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM s3('x')",
        "SELECT * FROM aTableFunctionOfTomorrow(1)",
        r"SELECT `f\x69le`('/etc/passwd')",
        "CREATE TABLE t (a Int8) ENGINE = `Kafka`",
        "CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '/etc/')",
        "CREATE NAMED COLLECTION c AS url = 'x'",
    ],
)
def test_what_reaches_outside_is_refused(sql: str) -> None:
    with pytest.raises(GatewayError, match="ACCESS_DENIED"):
        GUARD.check(parse(b"", sql.encode()))


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM numbers(3)",
        "SELECT 'file(' || url FROM t WHERE engine = 'Kafka'",
        "SELECT engine = 'x' FROM system.tables",
        "SELECT name FROM system.tables WHERE engine = File",
        "CREATE TABLE t (file String, url String) ENGINE = ReplacingMergeTree(a) ORDER BY (file, url)",
        "CREATE MATERIALIZED VIEW v TO t AS SELECT 1",
        "INSERT INTO t (file, url) VALUES ('file(1)', 'url(2)')",
    ],
)
def test_what_stays_inside_is_allowed(sql: str) -> None:
    GUARD.check(parse(b"", sql.encode()))


@given(st.text(alphabet=st.characters(blacklist_categories=["Cs"]), max_size=30))
def test_quoted_text_is_one_token(text: str) -> None:
    assert [token.kind for token in tokens(quote(text).encode())] == ["string"]
    assert [token.kind for token in tokens(quote_name(text).encode())] == ["quoted"]


def test_the_engines_code_is_found_in_its_text() -> None:
    found = from_engine(RuntimeError("Streaming insert finish failed: Code: 27. DB::Exception: no (X)"))
    assert (found.code, str(found)) == (27, "Code: 27. DB::Exception: no (X)")
    assert from_engine(RuntimeError("what?")).status == 500
