"""Bodies arrive whole, whoever compressed them, and credentials are asked for in every form."""

import gzip
import zlib

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.local.gateway.errors import GatewayError
from infra.local.gateway.wire import Credentials, compress, decompress, parameters, settings

PACK = {"lz4": lz4.frame.compress, "gzip": gzip.compress, "deflate": zlib.compress, "": bytes, "identity": bytes}


@given(st.lists(st.binary(max_size=200), max_size=5), st.sampled_from(sorted(PACK)))
def test_all_frames_of_a_body_count(blocks: list[bytes], encoding: str) -> None:
    assert decompress(b"".join(PACK[encoding](block) for block in blocks), encoding) == b"".join(blocks)


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["lz4", "gzip", "deflate"]), st.data())
def test_a_body_that_was_cut_is_refused(block: bytes, encoding: str, data: st.DataObject) -> None:
    packed = PACK[encoding](block)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(GatewayError) as refused:
        decompress(PACK[encoding](b"whole") + packed[:cut], encoding)
    assert refused.value.code == 89


def test_an_unknown_encoding_is_refused_by_name() -> None:
    with pytest.raises(GatewayError, match="br"):
        decompress(b"x", "br")


@given(st.binary(max_size=300), st.sampled_from(["lz4", "gzip", "zstd, lz4;q=0.5", "br, gzip", "zstd", ""]))
def test_answers_are_packed_only_as_the_client_asks(body: bytes, accepted: str) -> None:
    assert compress(body, accepted, {}) == (body, "")
    packed, encoding = compress(body, accepted, {"enable_http_compression": "1"})
    assert encoding in ("lz4", "gzip", "")
    assert encoding in accepted
    assert decompress(packed, encoding) == body


def test_settings_are_what_is_neither_address_nor_parameter() -> None:
    arguments = {
        "query": "SELECT 1",
        "database": "d",
        "session_id": "s",
        "wait_end_of_query": "1",
        "client_protocol_version": "54405",
        "param_x": "1",
        "ext_structure": "a Int8",
        "max_threads": "2",
    }
    assert settings(arguments, frozenset({"ext"})) == {"max_threads": "2"}
    assert parameters(arguments) == {"x": "1"}


@pytest.mark.parametrize(
    ("arguments", "headers", "allowed"),
    [
        ({}, {}, False),
        ({"user": "u", "password": "p"}, {}, True),
        ({"user": "u", "password": "x"}, {}, False),
        ({}, {"x-clickhouse-user": "u", "x-clickhouse-key": "p"}, True),
        ({"user": "u", "password": "p"}, {"x-clickhouse-user": "other"}, False),
        ({}, {"authorization": "Basic dTpw"}, True),
        ({}, {"authorization": "Basic dTp4"}, False),
        ({}, {"authorization": "Basic %%%"}, False),
        ({}, {"authorization": "Bearer dTpw"}, False),
    ],
)
def test_credentials_are_checked_in_every_form(
    arguments: dict[str, str], headers: dict[str, str], allowed: bool
) -> None:
    if allowed:
        Credentials("u", "p").check(arguments, headers)
        return
    with pytest.raises(GatewayError) as refused:
        Credentials("u", "p").check(arguments, headers)
    assert (refused.value.code, refused.value.status) == (516, 401)
