"""The dense parameters by name and shape: what trainer, checkpoint, update log and serving agree on."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Parameters = Mapping[str, NDArray[np.float32]]
"""Dense parameters by name, all f32."""

Shapes = dict[str, tuple[int, ...]]
"""The shape of each parameter by name."""


class ShapeMismatch(ValueError):
    """Dense parameters of another shape: another model, which cannot be swapped in place."""


def layer_shapes(inputs: int, hidden: tuple[int, ...], tasks: int) -> Shapes:
    """`layer.K.weight` [out, in] and `layer.K.bias` [out] of a network with one output per task."""
    named: Shapes = {}
    for number, (into, out) in enumerate(itertools.pairwise((inputs, *hidden, tasks))):
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
