"""What the serving package can be told."""

from typing import Annotated

from msgspec import Meta, Struct

from features.settings import FeatureSettings
from online_learning.settings import LearningSettings
from serving.experiments.assignment import InvalidExperiment, validate
from serving.policies import POLICIES
from streams.records import ArmDefinition, Experiment
from streams.settings import Address, Count, KafkaSettings, Positive, Share

_TWO_ARMS = Experiment(
    name="online-vs-popularity",
    control="popularity",
    arms=[ArmDefinition(name="online", policy="online"), ArmDefinition(name="popularity", policy="popularity")],
)


class ClickHouseSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ClickHouse's HTTP port is (host:port); empty means the local stack's own."""

    address: Address = ""
    database: Annotated[
        str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="of letters, digits and underscores, no digit first")
    ] = "default"
    user: str = "default"
    password: str = ""
    flush_interval_s: Positive = 2.0
    retention_days: Count = 365


class PipelineSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an answer is made.

    `retrieve`: candidates per source, and never fewer than the items asked for. `explore`: the probability that a slot
    is drawn uniformly from the remaining candidates instead of taking the best. `rank_by`: the task that ranks, by its
    probability or, of a value task, by the value that it predicts; `rank_by_scene` overrides it. `rank_weights`: where
    it names tasks, their weighted sum ranks instead, each with its probability, a value task with log1p of its value
    (by {click = 1.0, dwell = 0.05} a minute of dwell adds 0.2). What `rank_by` says then only finds candidates.
    """

    retrieve: Count = 200
    explore: Share = 0.05
    explore_pool: Count = 50
    rank_by: str = "click"
    rank_by_scene: dict[str, str] = {}
    rank_weights: dict[str, float] = {}
    logged_candidates: Annotated[int, Meta(ge=0)] = 5
    max_items: Count = 200
    position: Annotated[int, Meta(ge=0)] = 0


class TritonSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where Triton is: `grpc` and `http` addresses (host:port); both empty means the local stack's own."""

    grpc: Address = ""
    http: Address = ""
    instances: Count = 1

    def __post_init__(self) -> None:
        if bool(self.grpc) != bool(self.http):
            said, other = ("grpc", "http") if self.grpc else ("http", "grpc")
            raise ValueError(f"`{other}` == '', must be set where `{said}` is: a Triton elsewhere is asked on both")


class ServingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of replica, pipeline, experiments and evaluation."""

    kafka: KafkaSettings = KafkaSettings()
    features: FeatureSettings = FeatureSettings()
    learning: LearningSettings = LearningSettings()
    triton: TritonSettings = TritonSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    pipeline: PipelineSettings = PipelineSettings()
    experiments: tuple[Experiment, ...] = (_TWO_ARMS,)
    shm_dir: str = ""

    def __post_init__(self) -> None:
        names = [experiment.name for experiment in self.experiments]
        for k, experiment in enumerate(self.experiments):
            try:
                validate(experiment)
            except InvalidExperiment as error:
                raise ValueError(f"`experiments[{k}]`: {error}") from error
            if experiment.name in names[:k]:
                raise ValueError(f"`experiments[{k}].name` == {experiment.name!r}, must differ from the others")
            for j, arm in enumerate(experiment.arms):
                if arm.policy not in POLICIES:
                    allowed = ", ".join(POLICIES)
                    where = f"`experiments[{k}].arms[{j}].policy`"
                    raise ValueError(f"{where} == {arm.policy!r}, must be one of: {allowed}")
