"""Decayed counts that need no work while time passes: forward decay, kept as logarithms.

A count with half-life h that stands at c at time t is kept as its *level* log2(c) + t / h: an event at t adds 2^(t / h)
to 2^level, and the passing of time adds nothing. So levels of one half-life are in the order of the decayed counts at
any time, the list of the largest changes only when something is clicked, and log2 of the decayed count at t is
level - t / h. The numbers are those of `streams.decay` (Cormode, Shkapenyuk, Srivastava, Xu 2009, Forward Decay).
"""

import math

import numpy as np

from online_learning.studies.next_click.compiled import kernel

NEVER = -1e18
"""The level of nothing."""


@kernel
def raised(level, at):  # type: ignore[no-untyped-def]
    """log2(2^level + 2^at): the level after one more event at `at` = t / h (plus log2 of its weight)."""
    high, low = max(level, at), min(level, at)
    apart = low - high
    # Beyond 2^-52 of the larger the smaller leaves no trace in f64.
    return high if apart < -52.0 else high + math.log2(1.0 + math.pow(2.0, apart))


@kernel
def hold_top(top, levels, column, item):  # type: ignore[no-untyped-def]
    """Keeps top i64 [k] (-1: empty), the items of highest levels[:, column] in descending order, after `item` rose.

    Exact, as levels never fall: no other item can have entered.
    """
    size = len(top)
    place = size - 1
    for i in range(size):
        if top[i] == item or top[i] < 0:
            place = i
            break
    if top[place] >= 0 and top[place] != item and levels[top[place], column] >= levels[item, column]:
        return
    while place > 0 and levels[top[place - 1], column] < levels[item, column]:
        top[place] = top[place - 1]
        place -= 1
    top[place] = item


@kernel
def note_pair(ids, levels, totals, source, target, at, weight_log2):  # type: ignore[no-untyped-def]
    """Counts one transition source -> target in the bounded lists ids i32 [A, K], levels f64 [A, K, H].

    A full list lets go the entry with the lowest level at its middle half-life. totals f64 [A, H] counts all.
    """
    row, size, spans = ids[source], ids.shape[1], len(at)
    place = -1
    for k in range(size):
        if row[k] == target or row[k] < 0:
            place = k
            break
    if place < 0:
        middle, lowest = spans // 2, np.inf
        for k in range(size):
            if levels[source, k, middle] < lowest:
                lowest, place = levels[source, k, middle], k
    if row[place] != target:
        row[place] = target
        levels[source, place] = NEVER
    for h in range(spans):
        levels[source, place, h] = raised(levels[source, place, h], at[h] + weight_log2)
        totals[source, h] = raised(totals[source, h], at[h] + weight_log2)
