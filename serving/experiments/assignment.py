"""From a definition and a unit's id to an arm, the same in every process, on every machine and in every version.

The rule, which other languages can follow: `xxh3_64(name + "\\0" + salt + "\\0" + purpose + "\\0" + unit, seed 0) mod
10,000` is the unit's bucket, with the purpose `ramp` for the share of units that take part and `arm` for the arm. Two
buckets, so that a larger ramp adds units and moves none from one arm to another. Arms own consecutive buckets in the
order of the definition, in proportion to their weights. The test vectors of `tests/unit/serving/experiments` pin it.
"""

import itertools
from typing import Final

import msgspec
import xxhash

from streams.records import ArmDefinition, Assignment, Experiment

BUCKETS: Final = 10_000
UNIT_TYPES: Final = ("user", "session", "request")


class InvalidExperiment(ValueError):
    """A definition that cannot be run; the message names the field, its value and what is allowed."""


class Decision(msgspec.Struct, frozen=True):
    """What one experiment says about one unit: the policy to serve, and the assignment if the unit takes part."""

    policy: str
    assignment: Assignment | None


def bucket(experiment: str, salt: str, purpose: str, unit: str) -> int:
    """The bucket (0..9999) of a unit; uniform over units and independent between purposes, salts and names.

    Of 2**64 hashes mod 10,000, no bucket is likelier than another by more than 6e-16.
    """
    return xxhash.xxh3_64_intdigest("\0".join((experiment, salt, purpose, unit)).encode()) % BUCKETS


def validate(experiment: Experiment) -> None:
    """Raise InvalidExperiment for a definition that cannot be run."""
    name = experiment.name
    names = [arm.name for arm in experiment.arms]
    if not name or "\0" in name:
        raise InvalidExperiment(f"`name` == {name!r}, must be a non-empty string without NUL")
    if not names:
        raise InvalidExperiment(f"{name}: `arms` == [], must have at least one")
    if len(names) != len(set(names)) or not all(names):
        raise InvalidExperiment(f"{name}: `arms` == {names}, must have names that differ and are not empty")
    if any("|" in arm for arm in names):
        # It ends the item in the key of an item's statistics.
        raise InvalidExperiment(f"{name}: `arms` == {names}, must have names without `|`")
    if experiment.control not in names:
        raise InvalidExperiment(f"{name}: `control` == {experiment.control!r}, must be one of {', '.join(names)}")
    if experiment.unit_type not in UNIT_TYPES:
        allowed = ", ".join(UNIT_TYPES)
        raise InvalidExperiment(f"{name}: `unit_type` == {experiment.unit_type!r}, must be one of {allowed}")
    if not 0 <= experiment.ramp <= 1:
        raise InvalidExperiment(f"{name}: `ramp` == {experiment.ramp}, must be in [0, 1]")
    for arm in experiment.arms:
        if not 0 <= arm.weight < float("inf"):
            raise InvalidExperiment(f"{name}: weight of {arm.name} == {arm.weight}, must be finite and not negative")
    if not sum(arm.weight for arm in experiment.arms) > 0:
        raise InvalidExperiment(f"{name}: the weights add up to 0, must be more")


def shares(experiment: Experiment) -> dict[str, float]:
    """The share of the participating units that each arm gets, in whole buckets."""
    bounds = _bounds(experiment)
    widths = (upper - lower for lower, upper in itertools.pairwise((0, *bounds)))
    return {arm.name: width / BUCKETS for arm, width in zip(experiment.arms, widths, strict=True)}


def arm_of(experiment: Experiment, unit: str) -> ArmDefinition | None:
    """The arm of a unit; None where the unit is outside the ramp, the definition inactive, or the id empty."""
    if not experiment.active or not unit:
        return None
    if bucket(experiment.name, experiment.salt, "ramp", unit) >= round(experiment.ramp * BUCKETS):
        return None
    at = bucket(experiment.name, experiment.salt, "arm", unit)
    for arm, bound in zip(experiment.arms, _bounds(experiment), strict=True):
        if at < bound:
            return arm
    raise InvalidExperiment(f"{experiment.name}: `arms` leave bucket {at} to nobody")


def decide(experiment: Experiment, unit: str) -> Decision:
    """The policy for a unit and its assignment; units that do not take part get the control's policy."""
    arm = arm_of(experiment, unit)
    if arm is None:
        control = next(arm for arm in experiment.arms if arm.name == experiment.control)
        return Decision(control.policy, None)
    assignment = Assignment(
        experiment=experiment.name,
        arm=arm.name,
        unit_type=experiment.unit_type,
        unit=unit,
        version=experiment.version,
        phase=experiment.phase,
    )
    return Decision(arm.policy, assignment)


def _bounds(experiment: Experiment) -> list[int]:
    """The first bucket after each arm's own."""
    parts = list(itertools.accumulate(arm.weight for arm in experiment.arms))
    return [round(part / parts[-1] * BUCKETS) for part in parts]
