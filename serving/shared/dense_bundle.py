"""The dense parameters on this host: one small file, swapped whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from online_learning.updates.frames import array_of, tensor_of
from serving.shared.files import write_whole
from serving.shared.head import File, HeadReader, HeadWriter
from streams.records import Tensor


class DenseBundle(msgspec.Struct, frozen=True):
    """`parameters` by name, read-only, as of dense sequence `version` of `epoch` (0: nothing was published yet);
    `trained_with`: the sparse sequence of every table that it was trained with."""

    version: int = 0
    epoch: int = 0
    trained_with: dict[str, int] = {}
    parameters: dict[str, NDArray[Any]] = {}


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    version: int
    epoch: int
    trained_with: dict[str, int]
    tensors: dict[str, Tensor]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Stored)


class DenseWriter:
    """The replica's side."""

    def __init__(self, head: HeadWriter) -> None:
        self._head = head

    def swap(
        self, version: int, epoch: int, trained_with: Mapping[str, int], parameters: Mapping[str, NDArray[Any]]
    ) -> None:
        """Puts a new bundle in the old one's place."""
        tensors = {name: tensor_of(array) for name, array in parameters.items()}
        stored = _Stored(version, epoch, dict(trained_with), tensors)
        write_whole(self._head.next_path(File.DENSE), _ENCODER.encode(stored))
        self._head.advance(File.DENSE)


class DenseReader:
    """Serving's side."""

    def __init__(self, folder: Path, head: HeadReader | None = None) -> None:
        self._head = head or HeadReader(folder)
        self._head.refresh()
        self._generation = 0
        self._current = DenseBundle()

    def current(self) -> DenseBundle:
        """The newest bundle; the same object until a newer one is there."""
        generation = self._head.generation(File.DENSE)
        if generation != self._generation:
            try:
                stored = _DECODER.decode(self._head.path(File.DENSE, generation).read_bytes())
            except FileNotFoundError:
                # Replaced between the look and the reading: the next call finds the newer one.
                return self._current
            parameters = {name: array_of(tensor) for name, tensor in stored.tensors.items()}
            self._current = DenseBundle(stored.version, stored.epoch, stored.trained_with, parameters)
            self._generation = generation
        return self._current
