"""Statistics are kept of arms that a request can be assigned to, and read again when an arm is back."""

import msgspec

from serving.replica.arms import Arms
from streams.records import ArmDefinition, Experiment


def experiment(name: str, *arms: str, active: bool = True) -> Experiment:
    return Experiment(
        name=name, control=arms[0], arms=[ArmDefinition(name=arm, policy="online") for arm in arms], active=active
    )


def test_an_arm_is_kept_while_an_active_experiment_names_it() -> None:
    arms = Arms()
    first, second = experiment("first", "a", "b"), experiment("second", "b", "c")
    arms.follow([first, second])
    assert arms.wanted == {"", "a", "b", "c"}
    arms.follow([msgspec.structs.replace(first, active=False), second])
    assert arms.wanted == {"", "b", "c"}
    arms.follow([])
    assert arms.wanted == {""} and arms.wants("") and not arms.wants("b")


def test_an_arm_that_is_back_is_read_again_and_a_new_one_is_not() -> None:
    arms = Arms()
    assert arms.follow([experiment("first", "a", "b")]) == frozenset()
    assert arms.follow([]) == frozenset()
    assert arms.follow([experiment("second", "b", "new")]) == {"b"}
    assert arms.follow([experiment("second", "b", "new")]) == frozenset()


def test_an_arm_whose_rows_came_before_its_definition_is_read_again() -> None:
    arms = Arms()
    assert not arms.wants("a")
    assert arms.follow([experiment("first", "a")]) == {"a"}
    assert arms.wants("a")
