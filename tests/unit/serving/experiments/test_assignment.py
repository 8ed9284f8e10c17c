"""Assignment: the same arm everywhere, in the proportions of the definition."""

import subprocess
import sys
from collections import Counter

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from serving.experiments.assignment import (
    BUCKETS,
    InvalidExperiment,
    arm_of,
    bucket,
    decide,
    shares,
    validate,
)
from serving.experiments.statistics import sample_ratio
from streams.records import ArmDefinition, Experiment


def experiment(*weights: float, **fields: object) -> Experiment:
    arms = [ArmDefinition(name=f"arm{n}", policy=f"policy{n}", weight=w) for n, w in enumerate(weights)]
    return Experiment(name="buttons", arms=arms, control="arm0", **fields)  # type: ignore[arg-type]


TWO = experiment(1, 1)

# Never change these: an experiment that runs while the software is replaced must keep its units in their arms.
VECTORS = [
    ("buttons", "", "arm", "1", 942),
    ("buttons", "", "ramp", "1", 8879),
    ("buttons", "s", "arm", "1", 4905),
    ("online-vs-popularity", "", "arm", "u42", 7390),
    ("online-vs-popularity", "", "arm", "ünit ✓", 809),
    ("online-vs-popularity", "2026", "ramp", "u42", 8599),
]


def test_test_vectors_pin_the_buckets() -> None:
    for name, salt, purpose, unit, expected in VECTORS:
        assert bucket(name, salt, purpose, unit) == expected


def test_the_bucket_is_the_documented_hash() -> None:
    text = "buttons\0salt\0arm\0ünit".encode()
    assert bucket("buttons", "salt", "arm", "ünit") == xxhash.xxh3_64(text, seed=0).intdigest() % BUCKETS


def test_another_process_gives_the_same_arms() -> None:
    code = (
        "from tests.unit.serving.experiments.test_assignment import TWO; from serving.experiments.assignment import"
        " arm_of; print(''.join(arm_of(TWO, str(n)).name[-1] for n in range(300)))"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == "".join(arm.name[-1] for n in range(300) if (arm := arm_of(TWO, str(n))))


@pytest.mark.parametrize("weights", [(1, 1), (9, 1), (1, 2, 3, 4), (0, 1, 3), (0.25, 0.75)])
def test_units_fall_in_the_proportions_of_the_weights(weights: tuple[float, ...]) -> None:
    tried = experiment(*weights)
    counts = Counter(arm.name for n in range(40_000) if (arm := arm_of(tried, f"user{n}")))
    assert sample_ratio(counts, shares(tried)) > 0.001
    assert sum(counts.values()) == 40_000


def test_ramping_up_adds_units_and_moves_none() -> None:
    units = [f"user{n}" for n in range(5_000)]
    before: dict[str, str] = {}
    for ramp in (0.0, 0.01, 0.1, 0.5, 1.0):
        ramped = msgspec.structs.replace(TWO, ramp=ramp)
        now = {unit: arm.name for unit in units if (arm := arm_of(ramped, unit))}
        assert before.items() <= now.items()
        assert abs(len(now) / len(units) - ramp) < 0.03
        before = now
    assert len(before) == len(units)


def test_names_and_salts_are_independent() -> None:
    other = msgspec.structs.replace(TWO, salt="again")
    named = msgspec.structs.replace(TWO, name="other")
    for second in (other, named):
        pairs = Counter(
            (a.name, b.name) for n in range(20_000) if (a := arm_of(TWO, str(n))) and (b := arm_of(second, str(n)))
        )
        joined = {"".join(pair): count for pair, count in pairs.items()}
        assert sample_ratio(joined, dict.fromkeys(joined, 0.25)) > 0.001
        assert len(joined) == 4


def test_who_does_not_take_part_gets_the_control_and_no_assignment() -> None:
    outside = decide(msgspec.structs.replace(TWO, ramp=0.0), "u")
    assert (outside.policy, outside.assignment) == ("policy0", None)
    assert decide(msgspec.structs.replace(TWO, active=False), "u").assignment is None
    assert decide(TWO, "").assignment is None


def test_the_assignment_says_all_that_the_log_needs() -> None:
    running = experiment(0, 1, version=7, phase="ramp", unit_type="session")
    decision = decide(running, "s1")
    assert decision.policy == "policy1"
    assert decision.assignment is not None
    assert msgspec.to_builtins(decision.assignment) == ["buttons", "arm1", "session", "s1", 7, "ramp"]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda w: sum(w) > 0), st.text(max_size=20))
def test_every_unit_gets_an_arm_with_a_weight(weights: list[float], unit: str) -> None:
    tried = experiment(*weights)
    validate(tried)
    arm = arm_of(tried, unit)
    assert (arm is None) == (unit == "")
    if arm is not None:
        assert shares(tried)[arm.name] > 0
    assert sum(shares(tried).values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (msgspec.structs.replace(TWO, name=""), "`name`"),
        (msgspec.structs.replace(TWO, control="arm9"), "`control` == 'arm9', must be one of arm0, arm1"),
        (msgspec.structs.replace(TWO, arms=[]), "`arms` == \\[\\], must have at least one"),
        (msgspec.structs.replace(TWO, unit_type="usr"), "`unit_type` == 'usr', must be one of user, session, request"),
        (msgspec.structs.replace(TWO, ramp=1.2), "must be in \\[0, 1\\]"),
        (msgspec.structs.replace(TWO, arms=[*TWO.arms, TWO.arms[0]]), "names that differ"),
        (msgspec.structs.replace(TWO, arms=[ArmDefinition(name="a|b", policy="x")]), "must have names without `\\|`"),
        (experiment(1, -1), "not negative"),
        (experiment(0, 0), "add up to 0"),
        (experiment(1, float("nan")), "must be finite"),
    ],
)
def test_definitions_that_cannot_run_are_refused(wrong: Experiment, message: str) -> None:
    with pytest.raises(InvalidExperiment, match=message):
        validate(wrong)
