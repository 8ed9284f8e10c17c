"""Triton's entrance to the pipeline: tensors in, tensors out; everything else is in `serving.pipeline`.

The process border: where freshet's packages are (FRESHET_PYTHON_PATH, first on the path; not needed where they are
installed in the server's own Python) and the settings (FRESHET_SETTINGS, a JSON file with a `serving` object).
"""

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [folder for folder in os.environ.get("FRESHET_PYTHON_PATH", "").split(os.pathsep) if folder]

import numpy as np  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

from serving.pipeline.request import BadRequest  # noqa: E402
from serving.pipeline.service import Service  # noqa: E402

# The thread that sends impressions hands the interpreter back after this long; Python's own 5 ms would show in p99.
_SWITCH_S = 0.0005
_COUNTERS_EVERY_S = 1.0


class TritonPythonModel:
    """One instance of the model `recommend`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Opens the mirror, the feature store and the impression log, and answers once to compile what is compiled."""
        sys.setswitchinterval(_SWITCH_S)
        self._service = Service.open(Path(os.environ["FRESHET_SETTINGS"]))
        self._counters = Counters(args["model_instance_name"])
        # What was imported stays: the garbage collector would look through half a million objects again and again.
        gc.collect()
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request by itself: what is wrong with one is no other's error."""
        responses = [self._answer(request) for request in requests]
        self._counters.publish(self._service.counts())
        return responses

    def finalize(self) -> None:
        """Sends the impressions that still wait."""
        self._service.close()

    def _answer(self, request: Any) -> Any:
        try:
            user, n, context = _input(request, "user"), _input(request, "n"), _input(request, "context")
            if user is None or n is None:
                raise BadRequest("`user` and `n` must be given")
            answer = self._service.recommend(user, int(n), context or b"")
        except BadRequest as error:
            return _error(str(error), pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # the server lives on, and the client hears what happened
            pb_utils.Logger.log_error(f"recommend: {type(error).__name__}: {error}")
            return _error(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("items", np.array([item.encode() for item in answer.items], dtype=np.object_)),
                pb_utils.Tensor("scores", np.array(answer.scores, dtype=np.float32)),
                pb_utils.Tensor("request_id", np.array([answer.request_id.encode()], dtype=np.object_)),
                pb_utils.Tensor("versions", np.array([answer.versions], dtype=np.object_)),
            ]
        )


class Counters:
    """Counters of the pipeline on Triton's metrics port; each call there is dear, so they are moved in steps."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._metrics: dict[str, Any] = {}
        self._families: dict[str, Any] = {}
        self._said: dict[str, int] = {}
        self._next_s = 0.0

    def publish(self, counts: dict[str, int]) -> None:
        """Moves the counters to `counts`, at most once a second."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + _COUNTERS_EVERY_S
        for name, value in counts.items():
            moved = value - self._said.get(name, 0)
            if moved:
                self._metric(name).increment(moved)
                self._said[name] = value

    def _metric(self, name: str) -> Any:
        if name not in self._metrics:
            self._families[name] = pb_utils.MetricFamily(
                name=f"freshet_recommend_{name}",
                description=name.replace("_", " "),
                kind=pb_utils.MetricFamily.COUNTER,
            )
            self._metrics[name] = self._families[name].Metric(labels={"instance": self._instance})
        return self._metrics[name]


def _input(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    values = tensor.as_numpy().reshape(-1)
    if len(values) != 1:
        raise BadRequest(f"`{name}` has {len(values)} values, must have 1")
    return values[0]


def _error(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
