"""First embeddings, for ever: a function of seed and key alone, whatever the row's length and the machine."""

import numpy as np
import pytest
from numpy.typing import NDArray

from online_learning.table.intrinsics import mix64
from online_learning.table.settings import InitializerSettings, TableSettings
from online_learning.table.table import Table

KEYS = np.random.default_rng(5).integers(1, 2**64, 300, dtype=np.uint64)
SEED = 9


def uniform_row(key: int, dim: int, scale: float, zeros: int) -> NDArray[np.float32]:
    """The row of a key, column by column, in integers of any size."""
    stream = int(mix64(np.uint64(key ^ SEED)))
    row = np.zeros(dim, np.float32)
    for column in range(zeros, dim):
        bits = (stream + (column + 1) * 0x9E3779B9) & 0xFFFFFFFF
        bits = (bits ^ bits >> 16) * 0x7FEB352D & 0xFFFFFFFF
        bits = bits + (stream >> 32) & 0xFFFFFFFF
        bits = (bits ^ bits >> 15) * 0x846CA68B & 0xFFFFFFFF
        bits ^= bits >> 16
        row[column] = np.float32((bits >> 8) / 2**23 - 1) * np.float32(scale)
    return row


@pytest.mark.parametrize("dim", [1, 3, 15, 16, 17, 32, 33, 48, 64, 80])
@pytest.mark.parametrize("zeros", [0, 1, 17])
def test_uniform_rows_are_what_the_formula_says_of_any_length(dim: int, zeros: int) -> None:
    zeros = min(zeros, dim)
    rule = InitializerSettings(scale=0.013, zero_columns=zeros)
    table = Table(TableSettings(dim=dim, initializer=rule), SEED)
    rows = table.gather(table.find_or_insert(KEYS, np.zeros(len(KEYS), np.uint16), 0, 1))
    expected = np.stack([uniform_row(int(key), dim, rule.scale, zeros) for key in KEYS])
    assert rows.tobytes() == expected.tobytes()
