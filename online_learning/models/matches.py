"""What a candidate has in common with the user's recent items: the same item, the same category, the same genres.

Embeddings learn this too, but only after many examples of every value; a count needs one weight for all of them, so the
first click already changes what is shown. Fields of recent items share their keys with the item's own field, so that
equal values are equal keys.
"""

import math
from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from online_learning.settings import FieldSettings


def matching_field(recent: FieldSettings, item_fields: Sequence[FieldSettings]) -> FieldSettings | None:
    """The item's field that says of an item what `recent` says of the user's recent items, if there is one."""
    return next((field for field in item_fields if field.says_of_recent(recent)), None)


def match_names(fields: Sequence[FieldSettings]) -> tuple[str, ...]:
    """The names of the columns: per pair of fields the share of recent values that the candidate has, and the log of
    one plus their number."""
    items = [field for field in fields if field.side == "item"]
    matched = [field for field in fields if field.side != "item" and matching_field(field, items) is not None]
    return tuple(f"{field.name}_{what}" for field in matched for what in ("share", "log_count"))


def match_features(
    user: tuple[NDArray[np.uint64], NDArray[np.int64], int],
    item: tuple[NDArray[np.uint64], NDArray[np.int64], int],
    pairs: NDArray[np.int64],
    rows: int,
    *,
    one_user: bool,
) -> NDArray[np.float32]:
    """Columns f32 [rows, 2 * P] of P pairs i64 [P, 2] of (bag in a user's row, bag in an item's row).

    `user` and `item` are CSR: keys u64 [K], offsets i64 [rows * bags + 1], bags per row. With `one_user` the users have
    one row, which meets all items.
    """
    out = np.zeros((rows, 2 * len(pairs)), dtype=np.float32)
    _match(*user, *item, pairs, one_user, out)
    return out


@njit(cache=True, nogil=True)
def _match(  # type: ignore[no-untyped-def]
    user_keys, user_offsets, user_bags, item_keys, item_offsets, item_bags, pairs, one_user, out
):
    for row in range(len(out)):
        user = 0 if one_user else row
        for p in range(len(pairs)):
            user_bag = user * user_bags + pairs[p, 0]
            item_bag = row * item_bags + pairs[p, 1]
            hits, count = 0, user_offsets[user_bag + 1] - user_offsets[user_bag]
            for i in range(user_offsets[user_bag], user_offsets[user_bag + 1]):
                for j in range(item_offsets[item_bag], item_offsets[item_bag + 1]):
                    if user_keys[i] == item_keys[j]:
                        hits += 1
                        break
            if hits:
                out[row, 2 * p] = hits / count
                out[row, 2 * p + 1] = math.log1p(hits)
