"""Experiments are published once, and never change under the same version."""

from pathlib import Path

import msgspec
import pytest

from infra.provision import changes, check_bundle, newest
from infra.settings import SettingsError, parse
from infra.verify import undeclared
from streams.records import ArmDefinition, Experiment
from streams.topics import EXPERIMENTS

RUNNING = Experiment(
    name="home",
    control="b",
    arms=[ArmDefinition(name="a", policy="online"), ArmDefinition(name="b", policy="popularity")],
    version=2,
)


class Record(msgspec.Struct):
    """A record as kafka-python hands it over."""

    key: bytes | None
    value: bytes | None


def test_the_newest_definition_of_each_counts_and_what_nobody_can_read_does_not() -> None:
    """The topic is compacted: a start that failed of such a record would fail for ever."""
    newer = msgspec.structs.replace(RUNNING, version=3)
    records = [
        Record(b"home", EXPERIMENTS.codec.encode(RUNNING)),
        Record(b"x", b"{"),
        Record(b"x", b'{"name": "x", "control": "a", "arms": [], "z": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        Record(b"\xff", None),
        Record(None, None),
        Record(b"home", EXPERIMENTS.codec.encode(newer)),
        Record(b"gone", EXPERIMENTS.codec.encode(msgspec.structs.replace(RUNNING, name="gone"))),
        Record(b"gone", None),
    ]
    assert newest(records) == {"home": newer}


def test_a_new_experiment_is_published() -> None:
    assert changes({}, [RUNNING]) == [RUNNING]


def test_an_unchanged_experiment_is_left_alone() -> None:
    assert changes({"home": RUNNING}, [RUNNING]) == []


def test_a_newer_version_replaces_the_older() -> None:
    newer = msgspec.structs.replace(RUNNING, version=3, ramp=0.5)
    assert changes({"home": RUNNING}, [newer]) == [newer]


@pytest.mark.parametrize("version", [1, 2])
def test_a_change_without_a_newer_version_is_refused_and_says_what_to_set(version: int) -> None:
    changed = msgspec.structs.replace(RUNNING, version=version, ramp=0.5)
    with pytest.raises(SettingsError, match=r"'home' .* set `version` to 3"):
        changes({"home": RUNNING}, [changed])


def test_an_experiment_that_is_only_left_out_of_the_settings_goes_on_and_is_named() -> None:
    ended = msgspec.structs.replace(RUNNING, name="ended", active=False)
    (line,) = undeclared({"home": RUNNING, "ended": ended}, [])
    assert line.startswith("experiment home: runs as version 2") and "`active = false` and `version = 3`" in line
    assert undeclared({"home": RUNNING}, [RUNNING]) == []


@pytest.mark.parametrize(
    "text",
    [
        "[learning.model]\nhidden = [4096, 4096]",
        "[learning.model]\nname = 'dcn_v2'\ndim = 1024",
        "[learning.retrieval]\nname = 'two_tower'\nhidden = [2048, 2048]",
    ],
)
def test_a_model_that_no_record_can_carry_is_refused_before_anything_starts(text: str) -> None:
    with pytest.raises(SettingsError, match=r"learning\.model .* bytes, must be at most 15,728,640: .* `hidden`"):
        check_bundle(parse(text, "freshet.toml", Path("/somewhere")))


@pytest.mark.parametrize("text", ["", "[learning.model]\nhidden = []", "[learning.model]\nhidden = [1024, 512, 256]"])
def test_a_model_that_a_record_can_carry_is_taken(text: str) -> None:
    check_bundle(parse(text, "freshet.toml", Path("/somewhere")))
