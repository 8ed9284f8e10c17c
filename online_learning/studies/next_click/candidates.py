"""Which articles come into question after a session's clicks, and what the counts say of each."""

import math

import numpy as np

from online_learning.studies.next_click.compiled import kernel
from online_learning.studies.next_click.counts import (
    CLICK_HALF_LIVES_MS,
    NEXT_HALF_LIVES_MS,
    PAIR_HALF_LIVES_MS,
)
from streams.decay import DAY_MS

FLOOR = -6.0
"""Log2 of a decayed count below which nothing more is told: 1/64 of a click."""
SCALE = 0.25
"""What brings log2 counts, some ten units apart, to the size that a network starts well from."""

_SPANS, _NEXT, _PAIRS = len(CLICK_HALF_LIVES_MS), len(NEXT_HALF_LIVES_MS), len(PAIR_HALF_LIVES_MS)
# The columns of the features, each block with its width.
CLICKS = 0
FOLLOWS = CLICKS + _SPANS
AGE = FOLLOWS + _SPANS
"""Since the article was first clicked, and since it was last clicked by anyone."""
NEXT_OF_LAST = AGE + 2
LATER_OF_LAST = NEXT_OF_LAST + _NEXT
PRIOR_OF_LAST = LATER_OF_LAST + _PAIRS
NEXT_OF_SECOND = PRIOR_OF_LAST + _PAIRS
LATER_OF_SECOND = NEXT_OF_SECOND + _NEXT
PRIOR_OF_SECOND = LATER_OF_SECOND + _PAIRS
LATER_OF_THIRD = PRIOR_OF_SECOND + _PAIRS
NEXT_OF_HISTORY = LATER_OF_THIRD + _PAIRS
LATER_OF_HISTORY = NEXT_OF_HISTORY + _NEXT
IN_HISTORY = LATER_OF_HISTORY + _PAIRS
RANK = IN_HISTORY + 1
WALK = RANK + 1
"""How likely two transitions lead from the last click to the candidate."""
CONTEXT = WALK + 1
"""The same for all candidates: length of the prefix, hour of day (2), totals of the last click's transitions, its
clicks and age, size of the history, all clicks that follow another."""
_SLOW = 2
"""Half-lives of an hour and more, from this one on: shorter ones of a rare article would tell when its last click was
made, which may be this session's own."""
CONTEXT_WIDTH = 3 + _NEXT + _PAIRS + (_SPANS - _SLOW) + 2 + _SPANS
FEATURES = CONTEXT + CONTEXT_WIDTH

_WALK_SPAN = 1
"""Walks go by the transitions of the middle half-life, hours."""
_RARE = 0.01
"""First steps less likely than this are not taken: they cost as much as likely ones and add little."""
_WALK_FLOOR = -12.0


@kernel
def told(level, at):  # type: ignore[no-untyped-def]
    """A feature from a level: 0 for nothing, growing with log2 of the decayed count."""
    return SCALE * (max(level - at, FLOOR) - FLOOR)


@kernel
def offer(article, last_ms, oldest_ms, where, out, found):  # type: ignore[no-untyped-def]
    """Take an article as a candidate, if it is active and not there yet; how many there are then."""
    if article < 0 or found == len(out) or where[article] != -1 or last_ms[article] < oldest_ms:
        return found
    out[found] = article
    where[article] = found
    return found + 1


@kernel
def offer_list(ids, limit, last_ms, oldest_ms, where, out, found):  # type: ignore[no-untyped-def]
    """Take the first `limit` of a list."""
    for k in range(min(limit, len(ids))):
        found = offer(ids[k], last_ms, oldest_ms, where, out, found)
    return found


@kernel
def tell_list(ids, levels, at, where, column, out):  # type: ignore[no-untyped-def]
    """Writes what a transition list says of the candidates that are in it, from `column` on."""
    for k in range(len(ids)):
        article = ids[k]
        if article < 0:
            break
        row = where[article]
        if row >= 0:
            for h in range(len(at)):
                out[row, column + h] = told(levels[k, h], at[h])


@kernel
def walk(counts, start, found, where, features):  # type: ignore[no-untyped-def]
    """Writes WALK: the sum over articles m of P(m after start) P(candidate after m), both by decayed transitions."""
    ids, levels, totals = counts.next_ids, counts.next_levels, counts.next_totals
    reached = np.zeros(found)
    for k in range(ids.shape[1]):
        middle = ids[start, k]
        if middle < 0:
            break
        share = math.pow(2.0, levels[start, k, _WALK_SPAN] - totals[start, _WALK_SPAN])
        if share < _RARE:
            continue
        for j in range(ids.shape[1]):
            if ids[middle, j] < 0:
                break
            row = where[ids[middle, j]]
            if row >= 0:
                reached[row] += share * math.pow(2.0, levels[middle, j, _WALK_SPAN] - totals[middle, _WALK_SPAN])
    for row in range(found):
        features[row, WALK] = SCALE * (math.log2(max(reached[row], math.pow(2.0, _WALK_FLOOR))) - _WALK_FLOOR)


@kernel
def candidates_of(counts, prefix, history, now_ms, where, out, features):  # type: ignore[no-untyped-def]
    """Fills out i64 [C] and features f32 [C, FEATURES] for prefix i64 [p >= 1] (oldest first); how many were found.

    history i64 [q]: what the reader clicked lately, oldest first. where i32 [A] is scratch, all -1 before and after.
    The time of the session's last click is not asked for: that of a session's end is 30 s after it by construction.
    """
    click_at, next_at, pair_at = np.empty(_SPANS), np.empty(_NEXT), np.empty(_PAIRS)
    for h in range(_SPANS):
        click_at[h] = now_ms / CLICK_HALF_LIVES_MS[h]
    for h in range(_NEXT):
        next_at[h] = now_ms / NEXT_HALF_LIVES_MS[h]
    for h in range(_PAIRS):
        pair_at[h] = now_ms / PAIR_HALF_LIVES_MS[h]
    for i in range(len(prefix)):
        where[prefix[i]] = -2
    last = prefix[-1]
    second = prefix[-2] if len(prefix) > 1 else -1
    third = prefix[-3] if len(prefix) > 2 else -1
    habit = -1
    for i in range(len(history)):
        if where[history[i]] != -2:
            habit = history[i]
    clicks, follows, top = counts.clicks, counts.follows, counts.top
    first_ms, last_ms = counts.first_ms, counts.last_ms
    oldest_ms, found = now_ms - DAY_MS, 0
    for h in range(_SPANS):
        found = offer_list(top[h], 12, last_ms, oldest_ms, where, out, found)
    found = offer_list(counts.next_ids[last], 1000, last_ms, oldest_ms, where, out, found)
    if second >= 0:
        found = offer_list(counts.later_ids[second], 1000, last_ms, oldest_ms, where, out, found)
    found = offer_list(counts.prior_ids[last], 1000, last_ms, oldest_ms, where, out, found)
    for k in range(top.shape[1]):
        for h in range(_SPANS):
            found = offer(top[h, k], last_ms, oldest_ms, where, out, found)

    for row in range(found):
        article = out[row]
        for column in range(NEXT_OF_LAST, CONTEXT):
            features[row, column] = 0.0
        for h in range(_SPANS):
            features[row, CLICKS + h] = told(clicks[article, h], click_at[h])
            features[row, FOLLOWS + h] = told(follows[article, h], click_at[h])
        features[row, AGE] = SCALE * np.log2(1.0 + (now_ms - first_ms[article]) / 60_000.0)
        features[row, AGE + 1] = SCALE * np.log2(1.0 + (now_ms - last_ms[article]) / 1_000.0)
        features[row, RANK] = SCALE * 7
    next_of, later_of, prior_of = counts.next_ids, counts.later_ids, counts.prior_ids
    tell_list(next_of[last], counts.next_levels[last], next_at, where, NEXT_OF_LAST, features)
    tell_list(later_of[last], counts.later_levels[last], pair_at, where, LATER_OF_LAST, features)
    tell_list(prior_of[last], counts.prior_levels[last], pair_at, where, PRIOR_OF_LAST, features)
    if second >= 0:
        tell_list(next_of[second], counts.next_levels[second], next_at, where, NEXT_OF_SECOND, features)
        tell_list(later_of[second], counts.later_levels[second], pair_at, where, LATER_OF_SECOND, features)
        tell_list(prior_of[second], counts.prior_levels[second], pair_at, where, PRIOR_OF_SECOND, features)
    if third >= 0:
        tell_list(later_of[third], counts.later_levels[third], pair_at, where, LATER_OF_THIRD, features)
    if habit >= 0:
        tell_list(next_of[habit], counts.next_levels[habit], next_at, where, NEXT_OF_HISTORY, features)
        tell_list(later_of[habit], counts.later_levels[habit], pair_at, where, LATER_OF_HISTORY, features)
    for i in range(len(history)):
        row = where[history[i]]
        if row >= 0:
            features[row, IN_HISTORY] = 1.0
    for k in range(top.shape[1]):
        # Of the list with the half-life of an hour.
        article = top[2, k]
        if article >= 0 and where[article] >= 0:
            features[where[article], RANK] = SCALE * np.log2(1.0 + k)

    walk(counts, last, found, where, features)

    context = np.zeros(CONTEXT_WIDTH, np.float32)
    context[0] = np.log2(len(prefix))
    hour = (now_ms % DAY_MS) / DAY_MS * 2 * np.pi
    context[1], context[2] = np.sin(hour), np.cos(hour)
    at = 3
    for h in range(_NEXT):
        context[at + h] = told(counts.next_totals[last, h], next_at[h])
    at += _NEXT
    for h in range(_PAIRS):
        context[at + h] = told(counts.prior_totals[last, h], pair_at[h])
    at += _PAIRS
    for h in range(_SLOW, _SPANS):
        context[at + h - _SLOW] = told(clicks[last, h], click_at[h])
    at += _SPANS - _SLOW
    context[at] = SCALE * np.log2(1.0 + (now_ms - first_ms[last]) / 60_000.0) if first_ms[last] >= 0 else 0.0
    context[at + 1] = SCALE * np.log2(1.0 + len(history))
    at += 2
    for h in range(_SPANS):
        context[at + h] = told(counts.totals[h], click_at[h])
    for row in range(found):
        for column in range(CONTEXT_WIDTH):
            features[row, CONTEXT + column] = context[column]

    for row in range(found):
        where[out[row]] = -1
    for i in range(len(prefix)):
        where[prefix[i]] = -1
    return found
