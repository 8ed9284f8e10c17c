"""A click reaches an answer: the whole stack, a simulated world, and the probe that follows clicks by lineage."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from infra.inputs import run_simulation
from serving.probe import FreshnessReport, NothingToMeasure, Probe
from streams.logs import read_list
from streams.records import Metric
from streams.simulation.loop import Traffic
from streams.simulation.tally import Snapshot
from streams.topics import METRICS
from tests.stacks import RunningStack, running_stack

pytestmark = pytest.mark.servers

PROBES = 10


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture(scope="module")
def measured(stack: RunningStack) -> tuple[FreshnessReport, Snapshot]:
    settings, stop, begun = stack.settings, threading.Event(), threading.Event()
    traffic = Traffic(rate=5.0, seconds=600.0, organic=5.0)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run_simulation, settings, 3, "sim-3", traffic, stop, lambda _: begun.set())
        try:
            assert begun.wait(120), load
            with Probe(settings.serving, scene="sim-3", concurrency=2, timeout_s=60.0) as probe:
                report = probe.run(PROBES)
        finally:
            stop.set()
        return report, load.result()


def test_every_click_is_in_an_answer_after_its_example_was_in_the_log(
    measured: tuple[FreshnessReport, Snapshot],
) -> None:
    report, _ = measured
    assert report.lost == 0
    assert len(report.probes) == PROBES
    assert all(0 < probe.example_ms < probe.total_ms and probe.answer_ms < probe.total_ms for probe in report.probes)


def test_what_was_measured_is_on_the_metrics_topic(
    stack: RunningStack, measured: tuple[FreshnessReport, Snapshot]
) -> None:
    report, snapshot = measured
    published = [one for one in read_list(stack.settings.kafka, METRICS) if isinstance(one, Metric)]
    freshness = [metric.value for metric in published if metric.name == "freshness_ms"]
    assert sorted(freshness) == sorted(probe.total_ms for probe in report.probes)
    arms = {metric.labels["arm"] for metric in published if metric.name == "simulation_regret"}
    assert arms == snapshot.arms.keys()


def test_the_world_was_answered_and_knows_what_was_possible(measured: tuple[FreshnessReport, Snapshot]) -> None:
    _, snapshot = measured
    total = snapshot.total
    assert (snapshot.failed, snapshot.empty) == (0, 0)
    assert total.requests > 0
    assert 0 < total.expected_ctr < total.best_ctr
    assert total.popularity_ctr < 0.6 * total.best_ctr


def test_a_scene_without_items_is_said_at_once(stack: RunningStack) -> None:
    with Probe(stack.settings.serving, scene="nowhere") as probe, pytest.raises(NothingToMeasure, match="nowhere"):
        probe.run(1)
