"""What the positives of a batch are told from."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from online_learning.models.fields import Side


class Candidates(NamedTuple):
    """C items, of which the first B are those of B positives.

    side: the item fields of C rows; log_q f32 [C]: the logarithm of how often each is expected among those drawn, up to
    a constant; hits bool [B, C]: which candidates tell a positive nothing.
    """

    side: Side
    log_q: NDArray[np.float32]
    hits: NDArray[np.bool_]

    @classmethod
    def of(cls, side: Side, items: Sequence[str], users: Sequence[str], log_q: NDArray[np.float32]) -> Self:
        """Candidates by their names: items [C], users [B].

        Accidental hits are other places of a positive's own item, and what its user took in the same batch: those are
        no negatives, and users whose actions come together would have no others.
        """
        item, user = _numbers(items), _numbers(users)
        b = len(user)
        hits = item[None, :] == item[:b, None]
        hits[:, :b] |= user[None, :] == user[:, None]
        np.fill_diagonal(hits, False)
        return cls(side, log_q, hits)


def _numbers(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name, alike where the name is."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int64)
