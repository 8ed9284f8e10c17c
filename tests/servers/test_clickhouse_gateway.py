"""The gateway answers ClickHouse's clients as a ClickHouse server would."""

import asyncio
import json
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import clickhouse_connect
import pandas as pd
import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError
from clickhouse_connect.driver.external import ExternalData

from infra.local import clickhouse
from infra.local.launch import NotReady
from tests.servers.gateway import GatewayProcess, running

pytestmark = pytest.mark.servers

TABLE = """
    CREATE OR REPLACE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a
    SETTINGS non_replicated_deduplication_window = 100
"""
AWKWARD = ["", "plain", "two\n\nlines", "tab\tquote'backslash\\", "ünïcode ✓", "semi;colon", "\r\n"]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with running() as process:
        yield process


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[Any]:
    with gateway.client() as client:
        client.command(TABLE)
        yield client


def curl(gateway: GatewayProcess, path: str, *argv: str, data: bytes = b"") -> str:
    url = f"http://{gateway.address}{path}"
    done = subprocess.run(["curl", "-gsS", url, *argv], input=data, capture_output=True, check=True)
    return done.stdout.decode()


def rows(client: Any) -> list[tuple[int, str]]:
    return [tuple(row) for row in client.query("SELECT a, b FROM t ORDER BY a, b").result_rows]


def test_every_form_of_insert_stores_exactly_its_rows(client: Any) -> None:
    data = list(enumerate(AWKWARD))
    client.insert("t", data, column_names=["a", "b"])
    assert rows(client) == data

    client.command(TABLE)
    client.insert_df("t", pd.DataFrame(data, columns=["a", "b"]))
    assert rows(client) == data

    client.command(TABLE)
    client.insert_arrow("t", pa.table({"a": pa.array([a for a, _ in data], pa.uint64()), "b": AWKWARD}))
    assert rows(client) == data

    client.command(TABLE)
    lines = "\n".join(json.dumps({"a": a, "b": b}) for a, b in data)
    client.raw_insert("t", insert_block=lines, fmt="JSONEachRow")
    assert rows(client) == data

    client.command(TABLE)
    client.command("INSERT INTO t VALUES (1, 'two\n\nlines'), (2, 'semi;colon');")
    assert rows(client) == [(1, "two\n\nlines"), (2, "semi;colon")]


@pytest.mark.parametrize("compression", ["lz4", "gzip", False])
def test_many_rows_travel_both_ways_in_any_compression(gateway: GatewayProcess, compression: Any) -> None:
    # Blank lines, because the inline form of an INSERT is cut at the first one; long rows, because the client then
    # sends several blocks, each compressed on its own.
    with gateway.client(compress=compression) as client:
        for n_rows, length in ((100_000, 0), (20_000, 500)):
            client.command(TABLE)
            data = [(n, f"{n}\n\n{'x' * length}") for n in range(n_rows)]
            for _ in range(2):
                client.insert("t", data, column_names=["a", "b"], settings={"insert_deduplication_token": "same"})
                assert rows(client) == data


def test_queries_come_back_as_rows_frames_and_arrow(client: Any) -> None:
    sql = "SELECT number AS n, toString(number) AS s, if(number = 1, NULL, number) AS maybe FROM numbers(3)"
    assert client.query(sql).result_rows == [(0, "0", 0), (1, "1", None), (2, "2", 2)]
    assert client.query_df(sql)["n"].tolist() == [0, 1, 2]
    assert client.query_arrow(sql, use_strings=True)["s"].to_pylist() == ["0", "1", "2"]
    assert client.query_np("SELECT number FROM numbers(3)").tolist() == [[0], [1], [2]]
    with client.query_rows_stream("SELECT number FROM numbers(200000)") as stream:
        assert sum(row[0] for row in stream) == 199_999 * 100_000
    assert client.query("SELECT a FROM t").result_rows == []


def test_parameters_arrive_as_they_were_given(client: Any) -> None:
    for text in AWKWARD:
        answer = client.query(
            "SELECT {s:String}, {n:UInt32} + 1, {l:Array(String)}",
            parameters={"s": text, "n": 41, "l": [text, "x"]},
        )
        assert answer.result_rows == [(text, 42, [text, "x"])]


def test_the_async_client_works_too(gateway: GatewayProcess) -> None:
    async def ask() -> Any:
        client = await clickhouse_connect.get_async_client(host="127.0.0.1", port=gateway.port)
        try:
            answers = await asyncio.gather(
                *(client.query("SELECT {n:UInt8}", parameters={"n": n}, settings={"session_id": ""}) for n in range(8))
            )
            return [answer.result_rows[0][0] for answer in answers]
        finally:
            await client.close()

    assert asyncio.run(ask()) == list(range(8))


def test_errors_carry_the_code_of_clickhouse(client: Any, gateway: GatewayProcess) -> None:
    for sql, code, status in [
        ("SELECT * FROM nowhere", 60, 404),
        ("SELEKT 1", 62, 400),
        ("SELECT 1; SELECT 2", 62, 400),
        ("", 62, 400),
        ("SELECT toUInt8('x')", 6, 400),
        ("INSERT INTO t FORMAT JSONEachRow {broken", 26, 400),
        ("INSERT INTO nowhere VALUES (1)", 60, 404),
    ]:
        request = urllib.request.Request(f"http://{gateway.address}/", data=sql.encode(), method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        assert (refused.value.headers["X-ClickHouse-Exception-Code"], refused.value.code) == (str(code), status), sql
    with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
        client.query("SELECT * FROM nowhere")
    assert rows(client) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT file('/etc/passwd')",
        "SELECT `file`('/etc/passwd')",
        "SELECT “file”('/etc/passwd')",
        "SELECT FiLe /* x */ ('/etc/passwd')",
        "SELECT * FROM `/etc/passwd`",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM default.`/etc/passwd`",
        "SELECT * FROM url('http://127.0.0.1:1/', 'CSV')",
        "SELECT * FROM executable('id', 'CSV', 'x String')",
        "SELECT * FROM python('x')",
        "SELECT * FROM sqlite('/tmp/x', 'y')",
        "INSERT INTO FUNCTION file('/tmp/freshet-never.csv') SELECT 1",
        "INSERT INTO t VALUES (1, file('/etc/passwd'))",
        "SELECT 1 INTO OUTFILE '/tmp/freshet-never.csv'",
        "INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV",
        "CREATE TABLE k (a Int32) ENGINE = Kafka('h', 't', 'g', 'CSV')",
        "CREATE TABLE k (a Int32) ENGINE Kafka SETTINGS kafka_broker_list = 'h'",
        "CREATE TABLE k (a Int32) ENGINE = File(CSV)",
        "CREATE DATABASE k ENGINE = Filesystem('/etc')",
        "CREATE DICTIONARY k (a UInt64) PRIMARY KEY a SOURCE(FILE(path '/etc/passwd' format 'CSV')) LAYOUT(FLAT())",
        "BACKUP TABLE t TO File('/tmp/freshet-never')",
        "ATTACH TABLE k FROM '/etc' (a Int32) ENGINE = MergeTree ORDER BY a",
        "DROP DATABASE default",
        "SYSTEM SHUTDOWN",
    ],
)
def test_nothing_outside_the_database_can_be_reached(client: Any, sql: str) -> None:
    with pytest.raises((DatabaseError, OperationalError)) as refused:
        client.command(sql)
    assert any(name in str(refused.value) for name in ("ACCESS_DENIED", "UNKNOWN_TABLE")), refused.value
    assert client.command("SELECT 1") == 1


def test_words_of_the_guard_are_allowed_where_they_are_data(client: Any) -> None:
    client.command("INSERT INTO t VALUES (1, 'SELECT file(''/etc/passwd'') INTO OUTFILE')")
    assert client.query("SELECT b FROM t -- file('/etc/passwd')").result_rows[0][0].startswith("SELECT file(")
    assert client.command("SELECT count() FROM system.tables WHERE engine = 'Kafka'") == 0
    assert client.query("SELECT number AS file FROM numbers(1) WHERE (file) = 0").result_rows == [(0,)]


def test_a_session_keeps_its_settings_and_tables_and_no_others(gateway: GatewayProcess) -> None:
    with gateway.client() as one, gateway.client() as other:
        one.command("SET max_block_size = 777")
        one.command("CREATE TEMPORARY TABLE mine (a UInt8)")
        one.command("INSERT INTO mine VALUES (7)")
        setting = "SELECT getSetting('max_block_size')"
        assert one.command(setting) == 777
        assert one.command(setting, settings={"max_block_size": 5}) == 5
        assert one.command(setting) == 777
        assert one.command("SELECT a FROM mine") == 7
        assert other.command(setting) != 777
        with pytest.raises(DatabaseError, match="UNKNOWN_TABLE"):
            other.command("SELECT a FROM mine")


def test_the_token_of_one_insert_never_reaches_the_next(client: Any) -> None:
    client.command("SET max_block_size = 777")  # from here on the session has a handle of its own
    for expected in (1, 1):
        client.insert("t", [[1, "x"]], column_names=["a", "b"], settings={"insert_deduplication_token": "one"})
        assert len(rows(client)) == expected
    client.insert("t", [[2, "y"]], column_names=["a", "b"])
    client.insert("t", [[3, "z"]], column_names=["a", "b"], settings={"insert_deduplication_token": "two"})
    assert [a for a, _ in rows(client)] == [1, 2, 3]


def test_external_data_travels_with_its_query(client: Any) -> None:
    external = ExternalData(file_name="ext", data=b"1\tx\n2\ty\n", fmt="TSV", structure="a UInt8, b String")
    assert client.query("SELECT sum(a), max(b) FROM ext", external_data=external).result_rows == [(3, "y")]


def test_plain_curl_reads_and_writes(gateway: GatewayProcess, client: Any) -> None:
    assert curl(gateway, "/ping") == "Ok.\n"
    assert curl(gateway, "/", "--data-binary", "@-", data=b"SELECT 1 + 1") == "2\n"
    insert = "/?query=INSERT%20INTO%20t%20FORMAT%20JSONEachRow"
    assert curl(gateway, insert, "--data-binary", "@-", data=b'{"a": 1, "b": "x"}\n\n{"a": 2, "b": "y"}') == ""
    assert curl(gateway, "/?query=SELECT%20b%20FROM%20t%20ORDER%20BY%20a&default_format=CSV") == '"x"\n"y"\n'
    assert curl(gateway, "/?query=SELECT%20{n:UInt8}&param_n=7") == "7\n"
    assert "READONLY" in curl(gateway, "/?query=DROP%20TABLE%20t")
    assert [a for a, _ in rows(client)] == [1, 2]


def test_a_password_is_asked_for_where_one_is_set() -> None:
    with running(password="s3cret") as gateway:
        with gateway.client() as client:
            assert client.command("SELECT 1") == 1
        refused = curl(gateway, "/?query=SELECT%201", "--user", "default:wrong")
        assert "AUTHENTICATION_FAILED" in refused
        assert curl(gateway, "/?query=SELECT%201", "--user", "default:s3cret") == "1\n"
        with pytest.raises(NotReady, match="401"):
            clickhouse.probe(gateway.address, 5.0)
        command_lines = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True)
        assert "s3cret" not in command_lines.stdout


def test_statements_run_side_by_side(gateway: GatewayProcess) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with gateway.client() as client:
                for _ in range(20):
                    assert client.query(f"SELECT sum(number) + {number} FROM numbers(1000)").result_rows == [
                        (499_500 + number,)
                    ]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
