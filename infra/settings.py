"""All settings, from one `freshet.toml`: every package's own struct, composed, with shared values said once.

[kafka]     where Kafka is, partitions, retention      (streams.settings.KafkaSettings)
[streams]   tasks, labels, join                        (streams.settings.StreamsSettings)
[features]  Redis and the Feast repository             (features.settings.FeatureSettings)
[learning]  model, tables, trainer                     (online_learning.settings.LearningSettings)
[serving]   Triton, ClickHouse, pipeline, experiments  (serving.settings.ServingSettings)
[local]     the local stack                            (LocalSettings)
"""

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from features.settings import FeatureSettings
from infra import strict
from infra.strict import SettingsError
from online_learning.settings import LearningSettings
from serving.policies import ONLINE
from serving.settings import ServingSettings
from streams.settings import Count, KafkaSettings, Positive, StreamsSettings

__all__ = ["LocalSettings", "Settings", "SettingsError", "load", "parse", "resolved"]

FILE = "freshet.toml"
RESOLVED = "resolved.json"

# Said once and handed down by `compose`: where the value is set instead.
_HANDED_DOWN = {
    "streams.kafka": "kafka",
    "features.kafka": "kafka",
    "learning.kafka": "kafka",
    "serving.kafka": "kafka",
    "learning.tasks": "streams.tasks",
    "learning.join": "streams.join",
    "serving.features": "features",
    "serving.learning": "learning",
}


class LocalSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the local stack starts, restarts and stops what it runs.

    A crashed process is restarted after `restart_first_s`, twice as long
    after each further crash up to `restart_max_s`, and from the beginning again once it was up for `steady_s`.
    A log is rotated (one old file is kept) at `log_max_mb`. `threads`: of numeric libraries, per process.
    """

    start_timeout_s: Positive = 300.0
    stop_timeout_s: Positive = 40.0
    restart_first_s: Positive = 0.2
    restart_max_s: Positive = 30.0
    steady_s: Positive = 60.0
    kafka_heap_mb: Count = 512
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_max_mb: Count = 64
    threads: Count = 1


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that freshet can be told; `state_dir` is relative to the settings file."""

    state_dir: Annotated[str, Meta(min_length=1)] = ".freshet"
    cache_dir: Annotated[str, Meta(min_length=1)] = "~/.cache/freshet"
    kafka: KafkaSettings = KafkaSettings()
    streams: StreamsSettings = StreamsSettings()
    features: FeatureSettings = FeatureSettings()
    learning: LearningSettings = LearningSettings()
    serving: ServingSettings = ServingSettings()
    local: LocalSettings = LocalSettings()

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self.state_dir)

    @property
    def cache(self) -> Path:
        """The folder of fetched servers, shared by all stacks of the user."""
        return Path(self.cache_dir).expanduser()


def load(path: Path | None = None, state_dir: Path | None = None) -> Settings:
    """The settings of the file at `path`, else of ./freshet.toml where there is one, else the defaults.

    `state_dir` overrides the file's. Raises SettingsError with the full path of what is wrong.
    """
    path = used(path)
    if path is None:
        return parse("", FILE, Path.cwd(), state_dir)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return parse(text, str(path), path.absolute().parent, state_dir)


def used(path: Path | None) -> Path | None:
    """The settings file that `load` reads, None where there is none: whoever reads it elsewhere needs its name."""
    here = Path(FILE)
    return path or (here if here.exists() else None)


def parse(text: str, source: str, folder: Path, state_dir: Path | None = None) -> Settings:
    """The settings of a TOML document; relative paths in it start at `folder`. Raises SettingsError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: {error}") from error
    for path, instead in _HANDED_DOWN.items():
        if _has(data, path):
            raise SettingsError(f"{source}: {path} cannot be set here: set {instead}")
    settings = strict.decode(data, Settings, source)
    _check_ranking(settings, source)
    _check_arm(settings, source)
    return _compose(settings, folder, state_dir)


def resolved(state_dir: Path) -> Settings:
    """The settings of the stack that runs (or ran last) in `state_dir`, with its actual addresses.

    Raises SettingsError where none was started there.
    """
    return read_resolved(state_dir / RESOLVED)


def read_resolved(path: Path) -> Settings:
    """The complete settings that the stack wrote for its processes. Raises SettingsError."""
    try:
        data = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise SettingsError(f"{path.parent}: no stack was started here: run `freshet up`") from error
    except (OSError, msgspec.DecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    return strict.decode(data, Settings, str(path))


def with_addresses(settings: Settings, addresses: Mapping[str, str]) -> Settings:
    """The settings with these addresses: `kafka`, `redis`, `clickhouse`, `triton_grpc`, `triton_http` (host:port)."""
    serving = settings.serving
    clickhouse, triton = serving.clickhouse, serving.triton
    changed = replace(
        settings,
        kafka=replace(settings.kafka, bootstrap=addresses.get("kafka", settings.kafka.bootstrap)),
        features=replace(settings.features, redis=addresses.get("redis", settings.features.redis)),
        serving=replace(
            serving,
            clickhouse=replace(clickhouse, address=addresses.get("clickhouse", clickhouse.address)),
            triton=replace(
                triton,
                grpc=addresses.get("triton_grpc", triton.grpc),
                http=addresses.get("triton_http", triton.http),
            ),
        ),
    )
    return _handed_down(changed)


def instance(state_dir: Path) -> str:
    """A short name for the stack of this state folder, the same at every start."""
    return hashlib.blake2b(str(state_dir.absolute()).encode(), digest_size=4).hexdigest()


def shared_memory(state_dir: Path) -> str:
    """The folder of the serving tables where the settings name none."""
    return f"/dev/shm/freshet-{instance(state_dir)}"


def _compose(settings: Settings, folder: Path, state_dir: Path | None) -> Settings:
    """Fills in what is empty from the state folder, makes paths absolute, and hands shared values down."""
    state = (state_dir or folder / Path(settings.state_dir).expanduser()).absolute()

    def placed(value: str, default: Path) -> str:
        return str(folder / Path(value).expanduser()) if value else str(default)

    learning = settings.learning
    kept = learning.trainer.checkpoint_dir
    # A URL is of a store that all hosts reach.
    kept = kept if "://" in kept else placed(kept, state / "checkpoints")
    trainer = replace(learning.trainer, checkpoint_dir=kept)
    return _handed_down(
        replace(
            settings,
            state_dir=str(state),
            cache_dir=placed(settings.cache_dir, state),
            streams=replace(settings.streams, state_dir=placed(settings.streams.state_dir, state / "worker")),
            features=replace(settings.features, repo_dir=placed(settings.features.repo_dir, state / "features")),
            learning=replace(learning, trainer=trainer),
            serving=replace(
                settings.serving,
                shm_dir=placed(settings.serving.shm_dir, Path(shared_memory(state))),
            ),
        )
    )


def _handed_down(settings: Settings) -> Settings:
    kafka = settings.kafka
    streams = replace(settings.streams, kafka=kafka)
    features = replace(settings.features, kafka=kafka)
    learning = replace(settings.learning, kafka=kafka, tasks=streams.tasks, join=streams.join)
    serving = replace(settings.serving, kafka=kafka, features=features, learning=learning)
    return replace(settings, streams=streams, features=features, learning=learning, serving=serving)


def _check_ranking(settings: Settings, source: str) -> None:
    """Raises SettingsError where items are to be ranked by a task that there is not."""
    pipeline, tasks = settings.serving.pipeline, [task.name for task in settings.streams.tasks]
    asked = {"rank_by": pipeline.rank_by}
    asked |= {f"rank_by_scene.{scene}": task for scene, task in pipeline.rank_by_scene.items()}
    asked |= {f"rank_weights.{task}": task for task in pipeline.rank_weights}
    for name, task in asked.items():
        if task not in tasks:
            raise SettingsError(
                f"{source}: serving.pipeline.{name}: no task {task!r}, must be one of {', '.join(tasks)}"
            )


def _check_arm(settings: Settings, source: str) -> None:
    """Raises SettingsError where arms rank by the online model, and the trainer would learn from none of them."""
    arm = settings.learning.trainer.arm
    arms = [one for experiment in settings.serving.experiments if experiment.active for one in experiment.arms]
    ranked = dict.fromkeys(one.name for one in arms if one.policy == ONLINE)
    if arm and ranked and arm not in {one.name for one in arms}:
        allowed = ", ".join(ranked)
        raise SettingsError(
            f'{source}: learning.trainer.arm: no experiment has an arm {arm!r}, must be one of {allowed}, or "" to '
            "learn from all"
        )


def _has(data: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(data, dict) or key not in data:
            return False
        data = data[key]
    return True
