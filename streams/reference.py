"""What the join must give, computed from the whole logs at once: short, slow, and sharing nothing with `join`.

It stands for the specification: tests and the demo compare the worker's examples with it. It knows no batches, no
waiting, no state, no bound on it and no silence: windows are taken to end when everything was read.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
import xxhash
from msgspec import Struct

from streams.labels import LabelRules, negative_kept
from streams.records import Action, Example, Impression, Label, LabelState, ModelVersion, Shown
from streams.settings import StreamsSettings


class Expected(Struct, frozen=True, order=True):
    """What is specified of one emitted example. `labels`: (task, state, value), sorted by task. `served`: a hash of all
    that it takes over as it was served or, organic, said; not of an organic one's user features, which are state."""

    example_id: str
    revision: int
    user: str
    item: str
    labels: tuple[tuple[str, str, float], ...]
    negative_emitted: bool
    correction: bool
    late: bool
    organic: bool
    cause: str | None
    served: int


def observed(example: Example) -> Expected:
    """The specified part of an example that was emitted."""
    return Expected(
        example.example_id,
        example.revision,
        example.user,
        example.item,
        _flat(example.labels),
        example.negative_emitted,
        example.correction,
        example.late,
        example.organic,
        example.cause,
        _served(
            example.request_id,
            example.ts,
            example.position,
            example.propensity,
            example.scene,
            example.session,
            example.context,
            example.arms,
            example.policy,
            example.model,
            None if example.organic else example.user_features,
            example.item_features,
        ),
    )


def expected_examples(
    impressions: Mapping[int, Sequence[tuple[Impression, int]]],
    actions: Mapping[int, Sequence[Action]],
    settings: StreamsSettings,
) -> list[Expected]:
    """Every example that the join emits for these logs (by partition, in log order), all windows ended; sorted.

    With each impression comes when the broker appended it (ms).
    """
    found: list[Expected] = []
    for partition in impressions.keys() | actions.keys():
        found += _partition(impressions.get(partition, ()), actions.get(partition, ()), settings)
    return sorted(found)


class _Shown(Struct):
    impression: Impression
    behind: float
    acted: dict[int, list[tuple[Action, float]]]


def _partition(
    impressions: Iterable[tuple[Impression, int]], actions: Iterable[Action], settings: StreamsSettings
) -> Iterable[Expected]:
    join, rules = settings.join, LabelRules(settings.tasks, settings.labels)
    window, lateness, horizon = join.window_ms, join.lateness_ms, join.horizon_ms

    shown: dict[tuple[str, str], _Shown] = {}
    newest = float("-inf")
    for impression, appended_at in impressions:
        if impression.ts > appended_at + join.future_ms:
            continue
        behind, newest = newest - lateness, max(newest, min(impression.ts, appended_at))
        too_late = behind > impression.ts + window + horizon
        if not too_late:
            shown.setdefault((impression.user, impression.request_id), _Shown(impression, behind, {}))

    seen: dict[tuple[str, str], float] = {}
    newest = float("-inf")
    for action in actions:
        behind, newest = newest - lateness, max(newest, min(action.ts, action.received_at))
        known = seen.get((action.user, action.event_id))
        if known is not None and known + horizon >= behind:
            continue
        seen[action.user, action.event_id] = max(action.ts, behind)
        labels = rules.labels(action.kind, action.value)
        if not labels:
            continue
        at = shown.get((action.user, action.request_id)) if action.request_id is not None else None
        slot = _slot(at, action, behind, window + horizon)
        if at is not None and slot is not None:
            at.acted.setdefault(slot, []).append((action, behind))
        else:
            flat = _flat({task: _label(labels.get(task), LabelState.CENSORED) for task in rules.tasks})
            late = action.ts + horizon < behind
            said = _served(
                None, action.ts, -1, 1.0, action.scene, action.session, action.context, [], "", ModelVersion(), None, []
            )
            yield Expected(
                action.event_id, 0, action.user, action.item, flat, False, False, late, True, action.event_id, said
            )

    for held in shown.values():
        for k, item in enumerate(held.impression.items):
            yield from _revisions(held.impression, item, held.acted.get(k, []), window, rules, join.negative_rate)


def _slot(held: _Shown | None, action: Action, behind: float, remembered: int) -> int | None:
    """The slot that the action joins, if any."""
    if held is None or action.ts < held.behind:
        return None
    if max(action.ts, behind) > held.impression.ts + remembered:
        return None
    return next((k for k, shown in enumerate(held.impression.items) if shown.item == action.item), None)


def _revisions(
    impression: Impression,
    shown: Shown,
    acted: list[tuple[Action, float]],
    window: int,
    rules: LabelRules,
    rate: float,
) -> Iterable[Expected]:
    """All revisions of one slot: what came before the window's end, the end, what came after."""
    example_id = f"{impression.request_id}/{shown.position}"
    end = impression.ts + window
    served = _served(
        impression.request_id,
        impression.ts,
        shown.position,
        shown.propensity,
        impression.scene,
        impression.session,
        impression.context,
        impression.arms,
        impression.policy,
        impression.model,
        impression.user_features,
        shown.features,
    )
    kept = negative_kept(example_id, rate)
    before = [action for action, behind in acted if behind <= end]
    after = [action for action, behind in acted if behind > end]
    last: dict[str, Label] | None = None
    revision, negative = 0, False
    done: list[Action] = []
    steps = [*((action, False) for action in before), (None, True), *((action, True) for action in after)]
    for step, closed in steps:
        if step is not None:
            done.append(step)
        silent = [task for task in rules.shown_is_negative if _value(done, task, rules) is None]
        labels = {}
        for task in rules.tasks:
            rest = LabelState.PENDING if not closed else LabelState.CENSORED
            value = _value(done, task, rules)
            if closed and kept and task in silent:
                value = 0.0
            labels[task] = _label(value, rest)
        emits = bool(silent) and kept if step is None else labels != last
        if step is None and not emits:
            # The end itself says nothing here; what is censored now is the ground for later revisions.
            last = labels if last is not None else None
            continue
        if not emits:
            continue
        corrects = last is not None and any(
            old.state is LabelState.OBSERVED and labels[task] != old for task, old in last.items()
        )
        late = step is not None and (closed or step.ts > end)
        yield Expected(
            example_id,
            revision,
            impression.user,
            shown.item,
            _flat(labels),
            negative,
            corrects and step is not None,
            late,
            False,
            step.event_id if step is not None else None,
            served,
        )
        revision, last = revision + 1, labels
        negative = negative or step is None


def _value(done: list[Action], task: str, rules: LabelRules) -> float | None:
    """The label of one task: of each kind of action the newest by event time counts, and any 1 among kinds wins.

    Of a value task it is the value of the newest action of all, of equal times the largest.
    """
    if task in rules.values:
        said = [(a.ts, labels[task]) for a in done if task in (labels := rules.labels(a.kind, a.value))]
        return max(said)[1] if said else None
    newest: dict[str, tuple[int, float]] = {}
    for action in done:
        labels = rules.labels(action.kind, action.value)
        if task in labels and (action.kind not in newest or newest[action.kind][0] <= action.ts):
            newest[action.kind] = (action.ts, labels[task])
    return max(label for _, label in newest.values()) if newest else None


def _served(*fields: object) -> int:
    return xxhash.xxh3_64_intdigest(msgspec.msgpack.encode(fields))


def _label(value: float | None, rest: LabelState) -> Label:
    return Label(rest) if value is None else Label(LabelState.OBSERVED, value)


def _flat(labels: Mapping[str, Label]) -> tuple[tuple[str, str, float], ...]:
    return tuple(sorted((task, str(label.state), label.value) for task, label in labels.items()))
