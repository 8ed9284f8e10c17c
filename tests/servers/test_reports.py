"""The reports from ClickHouse agree with the same figures computed from the records alone."""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from infra.ab import ab_json
from online_learning.watching.value_errors import ValueErrors
from serving.evaluation import schema
from serving.evaluation.clickhouse import insert
from serving.evaluation.progressive import progressive
from serving.evaluation.queries import counts, dead_letters
from serving.evaluation.report import UnknownExperiment, ab, experiments
from serving.evaluation.rows import Origin, rows_of
from serving.experiments.assignment import arm_of, decide
from serving.experiments.statistics import ArmSums, difference
from serving.settings import ClickHouseSettings
from streams.records import (
    Action,
    ArmDefinition,
    DeadLetter,
    Experiment,
    Impression,
    Shown,
    Validation,
)

pytestmark = pytest.mark.servers

T0 = 1_700_000_000_000
TWO = Experiment(
    name="two",
    control="b",
    version=2,
    arms=[ArmDefinition(name="a", policy="online"), ArmDefinition(name="b", policy="popularity")],
)
OLD = msgspec.structs.replace(TWO, version=1, salt="old")
SKEWED = msgspec.structs.replace(
    TWO, name="skewed", arms=[ArmDefinition(name="a", policy="online", weight=2), TWO.arms[1]]
)


class Log:
    """Records on their way into the tables, as the sink writes them."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.offset = 0

    def write(self, topic: str, records: list[Any]) -> None:
        rows: dict[str, list[Any]] = defaultdict(list)
        tables = {}
        first = self.offset
        for record in records:
            for table, row in rows_of(record, Origin(topic, 0, self.offset)):
                rows[table.name].append(row)
                tables[table.name] = table
            self.offset += 1
        for name, found in rows.items():
            insert(self.client, tables[name], found, f"{topic}:0:{first}:{self.offset - 1}", "default")


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    from tests.servers.gateway import running

    with running() as gateway, gateway.client() as client:
        schema.ensure(client, ClickHouseSettings(address=gateway.address))
        yield Log(client)


class World:
    """A seeded log of two arms with different click rates, with everything that could be counted wrongly."""

    def __init__(self, seed: int, users: int = 400) -> None:
        chance = np.random.default_rng(seed)
        self.impressions: list[Impression] = []
        self.actions: list[Action] = []
        self.per_unit: dict[str, dict[str, list[int]]] = {"a": {}, "b": {}}
        for n in range(users):
            user = f"u{n}"
            assignment = decide(TWO, user).assignment
            assert assignment is not None
            per_unit = self.per_unit[assignment.arm].setdefault(user, [0, 0])
            own = chance.beta(2, 8) * (1.5 if assignment.arm == "a" else 1.0)
            for r in range(int(chance.integers(1, 6))):
                request = f"r{n}-{r}"
                items = [f"i{k}" for k in chance.choice(50, size=4, replace=False)]
                shown = [Shown(item, k, 0.1, 1.0, "x", False) for k, item in enumerate(items)]
                other = decide(OLD, user).assignment
                # A log of the older version of the same experiment must not be added to this one.
                arms = [other if r == 4 else assignment]
                self.impressions.append(
                    Impression(v=1, request_id=request, ts=T0 + 1000 * n + r, user=user, items=shown, arms=arms)
                )
                for item in items:
                    for kind in ("click", "like"):
                        if chance.random() < own:
                            self._act(user, item, kind, request)
                    self._act(user, item, "view", request)
                self._act(user, "never-shown", "click", request)
                self._act(user, items[0], "click", None)
                if r != 4:
                    acted = {(a.request_id, a.item) for a in self.actions[-20:] if a.kind in ("click", "like")}
                    per_unit[0] += sum((request, item) in acted for item in items)
                    per_unit[1] += len(items)

    def _act(self, user: str, item: str, kind: str, request: str | None) -> None:
        number = len(self.actions)
        self.actions.append(
            Action(
                ts=T0 + number,
                user=user,
                item=item,
                kind=kind,
                event_id=f"e{number}",
                received_at=0,
                request_id=request,
            )
        )

    def sums(self, arm: str) -> ArmSums:
        y, x = np.array([pair for pair in self.per_unit[arm].values() if pair[1]], dtype=object).T
        return ArmSums(units=len(y), y=y.sum(), x=x.sum(), yy=(y * y).sum(), xx=(x * x).sum(), xy=(x * y).sum())


@pytest.fixture(scope="module")
def world(log: Log) -> World:
    made = World(11)
    log.write("experiments", [OLD, TWO, SKEWED])
    log.write("impressions", made.impressions)
    log.write("actions", made.actions)
    return made


def test_the_report_is_the_one_computed_from_the_records(log: Log, world: World) -> None:
    report = ab(log.client, "two")
    assert (report.version, report.control, report.mixed_units) == (2, "b", 0)
    for arm in report.arms:
        expected = world.sums(arm.arm)
        assert (arm.units, arm.clicks, arm.impressions) == (expected.units, expected.y, expected.x)
        assert arm.low < arm.ctr < arm.high
    (comparison,) = report.comparisons
    assert comparison.difference == difference(world.sums("a"), world.sums("b"))
    units = [arm.units for arm in report.arms]
    assert report.sample_ratio_p == pytest.approx(stats.chisquare(units).pvalue)
    assert report.sample_ratio_ok
    assert experiments(log.client) == ["skewed", "two"]


def test_versions_windows_and_kinds_choose_what_counts(log: Log, world: World) -> None:
    whole = ab(log.client, "two")
    old = ab(log.client, "two", version=1)
    shown = sum(len(impression.items) for impression in world.impressions)
    assert sum(arm.impressions for arm in (*whole.arms, *old.arms)) == shown
    assert whole.first_ms is not None and whole.last_ms is not None
    middle = (whole.first_ms + whole.last_ms) // 2
    before = ab(log.client, "two", until_ms=middle)
    after = ab(log.client, "two", since_ms=middle)
    for n in range(2):
        assert before.arms[n].clicks + after.arms[n].clicks == whole.arms[n].clicks
        assert before.arms[n].impressions + after.arms[n].impressions == whole.arms[n].impressions
    views = ab(log.client, "two", click_kinds=["view"])
    assert all(arm.ctr == 1.0 for arm in views.arms)
    assert ab(log.client, "two", confidence=0.5).comparisons[0].difference.low > whole.comparisons[0].difference.low


def test_an_experiment_without_impressions_or_definition_says_so(log: Log, world: World) -> None:
    empty = ab(log.client, "two", since_ms=2 * T0)
    assert [arm.units for arm in empty.arms] == [0, 0]
    assert math.isnan(empty.comparisons[0].difference.p)
    assert msgspec.json.decode(ab_json(empty))["comparisons"][0]["difference"]["p"] is None
    with pytest.raises(UnknownExperiment, match="`nobody` is not in the logs; known: skewed, two"):
        ab(log.client, "nobody")
    with pytest.raises(UnknownExperiment, match="version 9"):
        ab(log.client, "two", version=9)


def test_a_broken_split_is_called_broken(log: Log, world: World) -> None:
    impressions = [
        msgspec.structs.replace(
            impression,
            request_id=f"s{impression.request_id}",
            # Units of arm a arrive as b: the split by the definition was 2 to 1, the log says about 1 to 2.
            arms=[msgspec.structs.replace(assigned, arm="b" if assigned.arm == "a" else "a")],
        )
        for impression in world.impressions
        if (assigned := decide(SKEWED, impression.user).assignment)
    ]
    log.write("impressions", impressions)
    report = ab(log.client, "skewed")
    assert report.sample_ratio_p < 0.0005 and not report.sample_ratio_ok
    moved = decide(SKEWED, world.impressions[0].user).assignment
    assert moved is not None and arm_of(SKEWED, moved.unit) is not None
    log.write("impressions", [msgspec.structs.replace(world.impressions[0], request_id="again", arms=[moved])])
    assert ab(log.client, "skewed").mixed_units == 1


def validation(window: int, positives: list[int], negatives: list[int], **fields: Any) -> Validation:
    given = {
        "learner": "online",
        "task": "click",
        "scene": "",
        "first_ts": T0,
        "last_ts": T0,
        "log_loss_sum": float(window),
        **fields,
    }
    return Validation(
        process="trainer",
        window=window,
        ts=T0,
        n=sum(positives) + sum(negatives),
        positives=sum(positives),
        prediction_sum=float(sum(positives)),
        bins_positive=positives,
        bins_negative=negatives,
        **given,
    )


def test_progressive_validation_merges_windows_and_replaces_repeated_ones(log: Log) -> None:
    chance = np.random.default_rng(5)
    windows = [(chance.integers(0, 9, 20).tolist(), chance.integers(0, 9, 20).tolist()) for _ in range(6)]
    garbage = ([1] * 20, [2] * 20)
    log.write("metrics", [validation(n, *garbage) for n in range(3)])
    log.write("metrics", [validation(n, *counted, epoch=1) for n, counted in enumerate(windows)])
    log.write("metrics", [validation(0, *garbage, learner="river"), validation(0, *garbage, scene="s", task="t2")])
    found = {(p.learner, p.task): p for p in progressive(log.client)}
    assert found.keys() == {("online", "click"), ("river", "click"), ("online", "t2")}
    online = found["online", "click"]

    def expected(part: list[tuple[list[int], list[int]]]) -> float:
        positive, negative = (np.array([w[k] for w in part]).sum(0) for k in (0, 1))
        scores = [np.repeat(np.arange(20), counted) for counted in (positive, negative)]
        return float(stats.mannwhitneyu(*scores).statistic / positive.sum() / negative.sum())

    assert online.auc.value == pytest.approx(expected(windows))
    assert online.n == sum(sum(p) + sum(n) for p, n in windows)
    assert online.log_loss == pytest.approx(sum(range(6)) / online.n)
    assert online.calibration == 1.0
    half = next(p for p in progressive(log.client, skip=0.5) if (p.learner, p.task) == ("online", "click"))
    sizes = np.cumsum([0] + [sum(p) + sum(n) for p, n in windows])
    kept = [w for w, before in zip(windows, sizes, strict=False) if before >= 0.5 * sizes[-1]]
    assert 0 < len(kept) < 6
    assert half.auc.value == pytest.approx(expected(kept))
    assert {p.scene for p in progressive(log.client, by_scene=True)} == {"", "s"}
    # Weighted windows and those of a writer that did not weigh go together.
    log.write("metrics", [validation(0, [0, 2], [1, 1], task="t3", weight_sum=10.0, log_loss_sum=4.0)])
    log.write("metrics", [validation(1, [0, 2], [1, 1], task="t3", log_loss_sum=3.0)])
    (weighted,) = [p for p in progressive(log.client) if p.task == "t3"]
    assert (weighted.n, weighted.log_loss) == (8, pytest.approx(7.0 / 14))
    assert progressive(log.client, since_ms=T0 + 1) == []


def test_a_newer_epoch_voids_what_older_ones_published_from_where_it_begins_on(log: Log) -> None:
    def published(epoch: int, windows: range, scene: str = "") -> None:
        log.write(
            "metrics",
            [validation(n, [epoch + 1], [10**epoch], task="anew", epoch=epoch, scene=scene) for n in windows],
        )

    def negatives() -> int:
        """A digit for each epoch that counts: how many of its windows."""
        return sum(p.n - p.positives for p in progressive(log.client) if p.task == "anew")

    published(1, range(8))
    published(1, range(2), scene="s")
    assert negatives() == 100
    # Restored from a checkpoint at its fifth window: the others of the first life are learned anew.
    published(2, range(5, 6))
    assert negatives() == 170
    published(2, range(6, 7))
    assert negatives() == 270
    # Begun anew, and restored since.
    published(4, range(3))
    assert negatives() == 30_020
    published(5, range(2, 3))
    assert negatives() == 120_020
    published(4, range(3, 4))
    assert negatives() == 120_020


def value_window(window: int, labels: np.ndarray, said: np.ndarray, mean: float, **fields: Any) -> Validation:
    errors = ValueErrors.of(said, labels, np.full(len(labels), mean))
    return Validation(
        process="trainer",
        learner=fields.pop("learner", "online"),
        task="dwell",
        scene=fields.pop("scene", ""),
        window=window,
        ts=T0,
        first_ts=T0,
        last_ts=T0,
        n=len(labels),
        positives=0,
        log_loss_sum=0.0,
        bins_positive=[],
        bins_negative=[],
        prediction_sum=float(said.sum()),
        target="value",
        label_sum=errors.labels,
        absolute_error_sum=errors.absolute,
        squared_error_sum=errors.squared,
        reference_error_sum=errors.reference,
        **fields,
    )


def test_errors_of_values_merge_over_windows_and_have_no_auc(log: Log) -> None:
    chance = np.random.default_rng(6)
    labels, noise = chance.exponential(30.0, (4, 50)), chance.normal(0.0, 5.0, (4, 50))
    garbage = value_window(2, labels[0], labels[0], 0.0)
    windows = [value_window(k, labels[k], labels[k] + noise[k], 30.0, scene="ab"[k % 2], epoch=1) for k in range(4)]
    log.write("metrics", [garbage, *windows, value_window(0, labels[0], labels[0] * 0 + 30.0, 30.0, learner="river")])
    found = {(p.learner, p.task): p for p in progressive(log.client)}
    online, river = found["online", "dwell"], found["river", "dwell"]
    assert online.errors is not None and river.errors is not None
    # What has no scene was written once, and not replaced.
    everything, errors = np.append(labels, labels[0]), np.append(noise, np.zeros(50))
    assert (online.n, online.positives) == (250, 0)
    assert online.errors.mae == pytest.approx(np.abs(errors).mean())
    assert online.errors.rmse == pytest.approx(np.sqrt((errors**2).mean()))
    reference = ((labels - 30.0) ** 2).sum() + (labels[0] ** 2).sum()
    assert online.errors.r2 == pytest.approx(1 - (errors**2).sum() / reference)
    assert river.errors.r2 == pytest.approx(0.0, abs=1e-9)
    assert online.calibration == pytest.approx(1 + errors.sum() / everything.sum())
    assert np.isnan([online.auc.value, online.log_loss]).all()
    ranked = [p.learner for p in progressive(log.client) if p.task == "dwell"]
    assert ranked == ["online", "river"]
    assert found["online", "click"].errors is None


def test_counts_show_doubles_and_dead_letters_by_origin(log: Log) -> None:
    letter = DeadLetter(topic="events", partition=0, offset=5, reason="not-json", detail="", at=T0)
    log.write("dead-letters", [letter, letter, msgspec.structs.replace(letter, offset=6, reason="empty")])
    assert dead_letters(log.client) == {"not-json": 1, "empty": 1}
    before = counts(log.client)
    assert before["dead_letters"].records == 3 and before["dead_letters"].doubles == 0
    log.client.command("INSERT INTO dead_letters SELECT * FROM dead_letters LIMIT 1")
    after = counts(log.client)
    assert (after["dead_letters"].records, after["dead_letters"].doubles) == (3, 1)
    assert after["impressions"].rows > after["impressions"].records


def test_the_command_prints_a_table_or_json(log: Log, world: World, tmp_path: Any) -> None:
    import typer

    from infra.ab import ab as command

    app = typer.Typer()
    app.command()(command)
    address = log.client.uri.removeprefix("http://")
    config = tmp_path / "freshet.toml"
    config.write_text(f'[serving.clickhouse]\naddress = "{address}"\n')
    run = CliRunner().invoke
    done = run(app, ["two", "--config", str(config), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert msgspec.json.decode(done.stdout)["arms"][0]["clicks"] == world.sums("a").y
    both = run(app, ["--config", str(config), "--json"])
    assert [report["experiment"] for report in msgspec.json.decode(both.stdout)] == ["skewed", "two"]
    shown = run(app, ["two", "--config", str(config)])
    assert "popularity" in shown.stdout and "sample ratio p" in shown.stdout
    for wrong, message in [
        (["nobody"], "known: skewed, two"),
        (["two", "--since", "yesterday"], "--since"),
        (["two", "--confidence", "2"], "must be in (0, 1)"),
    ]:
        failed = run(app, [*wrong, "--config", str(config)])
        assert failed.exit_code == 1
        assert message in failed.stderr.replace("\n", " ")
