"""What the probe makes of answers that do not come."""

import pytest

from serving.client import Recommender
from serving.probe import NothingToMeasure, Probe

# Port 1 is reserved and has no listener: connections are refused at once.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def probe() -> Probe:
    """Without Kafka, which it does not come to here."""
    made = Probe.__new__(Probe)
    made._client, made._scene, made._run = Recommender(NOWHERE), "", "probe"
    return made


def test_an_answer_that_does_not_come_is_one_lost_probe_and_not_the_end_of_all(probe: Probe) -> None:
    assert probe._once("u1", 0) is None


def test_nobody_there_at_the_start_is_said(probe: Probe) -> None:
    with pytest.raises(NothingToMeasure):
        probe._users(1)
