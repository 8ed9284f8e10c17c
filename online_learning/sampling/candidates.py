"""What the positives of a batch are told from."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import Side


class Candidates(NamedTuple):
    """C items, of which the first B are those of B positives.

    side: the item fields of C rows; log_expected f32 [B, C]: the logarithm of how often each is expected among those
    drawn for each positive. Its own item is there for certain: 0. What tells it nothing counts as drawn without end:
    inf.
    """

    side: Side
    log_expected: NDArray[np.float32]

    @classmethod
    def of(cls, side: Side, items: Sequence[str], users: Sequence[str], log_q: NDArray[np.float32]) -> Self:
        """Candidates by their names: items [C], users [B], and ln q f32 [C], by which each was drawn.

        Accidental hits are other places of a positive's own item, and what its user took in the same batch: those are
        no negatives, and users whose actions come together would have no others. The former were drawn all the same and
        are part of the M draws; the latter were not. A candidate is expected M * q times.
        """
        item, user = _numbers(items), _numbers(users)
        b = len(user)
        taken = np.zeros((b, len(item)), dtype=np.bool_)
        taken[:, :b] = user[None, :] == user[:, None]
        draws = np.maximum((~taken).sum(axis=1, dtype=np.float32), np.float32(1))
        expected = log_q[None, :] + np.log(draws)[:, None]
        expected[taken | (item[None, :] == item[:b, None])] = np.inf
        np.fill_diagonal(expected, 0.0)
        return cls(side, expected)


def _numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name, alike where the name is."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
