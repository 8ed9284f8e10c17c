"""Whether two copies of a table hold the same rows, byte for byte, in one number.

The digest is the sum modulo 2^64 of a hash of every (key, serving bytes): it does not depend on the order of rows,
and a holder can keep it current by subtracting the old row's hash and adding the new one's.
"""

import enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from online_learning.table.arguments import writable
from online_learning.table.compiled import kernel
from online_learning.table.intrinsics import mix64

_FP16_MAX: Final = float(np.finfo(np.float16).max)


class Encoding(enum.StrEnum):
    """How serving rows are written down."""

    FP32 = "fp32"
    FP16 = "fp16"

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of one column."""
        return np.dtype(np.float32) if self is Encoding.FP32 else np.dtype(np.float16)

    def encode_rows(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Rows [n, dim] in this encoding (no copy where nothing changes).

        fp16 rounds to nearest even and clips at its range, instead of becoming infinite.
        """
        if self is Encoding.FP16:
            rows = np.clip(rows, -_FP16_MAX, _FP16_MAX)
        return rows.astype(self.dtype, copy=False)


@kernel
def _hash_rows(keys, words, columns, out):  # type: ignore[no-untyped-def]
    for i in range(keys.shape[0]):
        # Columns are hashed apart, each under its own number, and summed: no chain, so the loop vectorises.
        start = mix64(keys[i])
        total = np.uint64(0)
        for column in range(columns):
            word = np.uint64(words[i * columns + column]) | (np.uint64(column + 1) << np.uint64(32))
            total += mix64(start + word * np.uint64(0x9E3779B97F4A7C15))
        out[i] = mix64(total ^ start)


def row_digests(keys: NDArray[np.uint64], rows: NDArray[Any]) -> NDArray[np.uint64]:
    """Hashes u64 [n] of keys u64 [n] with their rows [n, dim] f32 or f16, over the bytes as they are."""
    word = np.uint32 if rows.dtype == np.float32 else np.uint16
    words = writable(np.ascontiguousarray(rows).view(word), word)
    out = np.empty(len(keys), np.uint64)
    _hash_rows(writable(keys, np.uint64), words.reshape(-1), rows.shape[1], out)
    return out


def digest_rows(keys: NDArray[np.uint64], rows: NDArray[Any]) -> int:
    """The digest of these rows: the sum of their hashes modulo 2^64, in [0, 2^64)."""
    return int(np.add.reduce(row_digests(keys, rows), dtype=np.uint64))
