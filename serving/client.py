"""Asking for recommendations from Python. Light: needs tritonclient, numpy and msgspec, nothing of the server.

Any other language uses Triton's own protocol, gRPC or plain HTTP:

    curl -s localhost:8000/v2/models/recommend/infer -d '{"inputs": [
      {"name": "user",    "datatype": "BYTES", "shape": [1], "data": ["u1"]},
      {"name": "n",       "datatype": "INT32", "shape": [1], "data": [10]},
      {"name": "context", "datatype": "BYTES", "shape": [1], "data": ["{\\"scene\\": \\"home\\"}"]}]}'

`context` may be left out. Its known fields are `scene`, `session`, `exclude` (item ids) and `dry_run`; all others are
features for the model. An error says what is wrong in `error`, with HTTP status 400 or gRPC INVALID_ARGUMENT where the
request was at fault.
"""

from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import tritonclient.grpc as triton
from msgspec import Struct
from tritonclient.utils import InferenceServerException

from serving.answer import Versions, decode_versions

# gRPC would wait ever longer, up to two minutes, before it looks for a server that was restarted.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]


class RecommendError(Exception):
    """No recommendation.

    RecommendError
    ├── Refused       the request was at fault; asking again will not help
    └── Unavailable   the server was not there, not ready or too slow; asking again may help
    """


class Refused(RecommendError):
    """The request was at fault; the message says what is wrong."""


class Unavailable(RecommendError):
    """The server was not there, not ready or too slow."""


class Recommendation(Struct, frozen=True):
    """An answer: items in the order of their slots, with the scores that ranked them.

    Send `request_id` along with every action on these items: it joins the action to this answer.
    """

    items: list[str]
    scores: list[float]
    request_id: str
    versions: Versions


class Recommender:
    """A connection to the model `recommend` at a gRPC address (host:port). Safe from several threads."""

    def __init__(self, address: str, timeout_s: float = 2.0) -> None:
        self._client = triton.InferenceServerClient(address, channel_args=_CHANNEL)
        self._timeout_s = timeout_s

    def recommend(self, user: str, n: int = 10, context: dict[str, Any] | None = None) -> Recommendation:
        """At most `n` items for the user: fewer where there are fewer. Raises Refused or Unavailable."""
        try:
            inputs = [_text("user", user.encode()), _int("n", n), _text("context", msgspec.json.encode(context or {}))]
        except (ValueError, OverflowError, TypeError, RecursionError, msgspec.MsgspecError) as error:
            raise Refused(f"this cannot be sent: {error}") from error
        result = self._infer("recommend", inputs)
        return Recommendation(
            items=[item.decode() for item in result.as_numpy("items").tolist()],
            scores=result.as_numpy("scores").tolist(),
            request_id=result.as_numpy("request_id")[0].decode(),
            versions=decode_versions(result.as_numpy("versions")[0]),
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _infer(self, model: str, inputs: list[triton.InferInput]) -> triton.InferResult:
        try:
            return self._client.infer(model, inputs, client_timeout=self._timeout_s)
        except InferenceServerException as error:
            kind = Refused if "INVALID_ARGUMENT" in str(error.status()) else Unavailable
            raise kind(error.message() or str(error)) from error


def _text(name: str, value: bytes) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "BYTES")
    tensor.set_data_from_numpy(np.array([value], dtype=np.object_))
    return tensor


def _int(name: str, value: int) -> triton.InferInput:
    tensor = triton.InferInput(name, [1], "INT32")
    tensor.set_data_from_numpy(np.array([value], dtype=np.int32))
    return tensor
