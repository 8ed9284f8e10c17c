"""The dense parameters by name and shape: what trainer, checkpoint, update log and serving agree on."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.settings import ModelSettings

Parameters = Mapping[str, NDArray[np.float32]]
"""Dense parameters by name, all f32."""


class ShapeMismatch(ValueError):
    """Dense parameters of another shape: another model, which cannot be swapped in place."""


def shapes(settings: ModelSettings, tasks: int, fields: int, dense: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape for T tasks, F fields of the settings' dim and D dense features.

    `bias` [T]; `scale` [T, 2], the task's weight of the linear and of the pairwise part; `dense_linear` [T, D];
    `layer.K.weight` [out, in] and `layer.K.bias` [out] over `[F * dim + D]` inputs, the last layer with T outputs.
    """
    named: dict[str, tuple[int, ...]] = {"bias": (tasks,), "scale": (tasks, 2), "dense_linear": (tasks, dense)}
    widths = (fields * settings.dim + dense, *settings.hidden, tasks)
    for number, (into, out) in enumerate(itertools.pairwise(widths)):
        named[f"layer.{number}.weight"] = (out, into)
        named[f"layer.{number}.bias"] = (out,)
    return named


def check(parameters: Mapping[str, NDArray[Any]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ShapeMismatch naming the first parameter that is missing, unknown or of another shape."""
    for name in sorted(expected.keys() | parameters.keys()):
        if name not in parameters:
            raise ShapeMismatch(f"`{name}` is missing")
        if name not in expected:
            raise ShapeMismatch(f"`{name}` is unknown")
        if parameters[name].shape != expected[name]:
            raise ShapeMismatch(f"`{name}` has shape {parameters[name].shape}, must be {expected[name]}")
