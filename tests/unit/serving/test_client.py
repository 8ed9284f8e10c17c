"""What the client says of requests that cannot even be sent, and of a server that is away."""

from typing import Any

import pytest

from serving.client import Recommender, Refused, Unavailable

# Port 1 is reserved and has no listener: connections are refused at once.
NOWHERE = "127.0.0.1:1"


def test_without_a_server_asking_again_may_help() -> None:
    with Recommender(NOWHERE) as client, pytest.raises(Unavailable):
        client.recommend("u1")


@pytest.mark.parametrize(
    ("user", "n", "context"),
    [
        ("u1", 2**31, None),
        ("\ud800", 1, None),
        ("u1", 1, {"a": object()}),
        ("u1", 1, {"a": "\ud800"}),
    ],
)
def test_what_cannot_be_sent_is_refused(user: str, n: int, context: dict[str, Any] | None) -> None:
    with Recommender(NOWHERE) as client, pytest.raises(Refused, match="this cannot be sent"):
        client.recommend(user, n, context)
