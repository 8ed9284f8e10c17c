"""Settings: shared values are said once, paths are absolute, and an error names its place and what is allowed."""

from pathlib import Path

import msgspec
import pytest

from infra import settings as settings_module
from infra.settings import Settings, SettingsError, parse, read_resolved, with_addresses

HERE = Path("/somewhere")


def parsed(text: str) -> Settings:
    return parse(text, "freshet.toml", HERE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafak = 1", "freshet.toml: kafak is unknown: must be one of state_dir, cache_dir, kafka, streams, "),
        ("[kafka]\nport = 1", "freshet.toml: kafka.port is unknown: must be one of bootstrap, partitions, "),
        ("[kafka]\npartitions = 0", "freshet.toml: kafka.partitions = 0: expected `int` >= 1"),
        ("[kafka]\npartitions = '2'", 'freshet.toml: kafka.partitions = "2": expected `int`, got `str`'),
        (
            "[learning.trainer]\nrow_encoding = 'f64'",
            'freshet.toml: learning.trainer.row_encoding = "f64": must be one of "f32", "f16"',
        ),
        (
            "[learning.model]\nname = 'dlrm'",
            'freshet.toml: learning.model.name = "dlrm": must be one of "deepfm", "logistic_regression", "dcn_v2"',
        ),
        (
            "[learning.model]\ncross_layers = 3",
            "learning.model: `cross_layers` == 3, must be left out: the model `deepfm` has no cross layers",
        ),
        (
            "[learning.model]\nname = 'dcn_v2'\ncross_layers = 0",
            "freshet.toml: learning.model.cross_layers = 0: expected `int` >= 1",
        ),
        (
            "[learning.retrieval]\nname = 'three_tower'",
            'freshet.toml: learning.retrieval.name = "three_tower": must be one of "ranking", "two_tower"',
        ),
        (
            "[learning.retrieval]\nhidden = [8]",
            "learning.retrieval: `hidden` == (8,), must be left out: `ranking` retrieval has none",
        ),
        (
            "[[learning.model.fields]]\nname='a'\nside='item'\nsource='recent'",
            "learning.model.fields[0]: `source` == 'recent', must be one of id, attribute, scene: `a` is of `item`",
        ),
        (
            "[[learning.model.fields]]\nname='a'\nside='context'\nsource='context'",
            "learning.model.fields[0]: `attribute` of `a` is missing, must name what `context` reads",
        ),
        (
            "[[learning.model.fields]]\nname='a'\nside='user'\nsource='id'\nattribute='b'",
            "learning.model.fields[0]: `attribute` == 'b', must be left out: `id` has none",
        ),
        (
            "[[learning.model.fields]]\nname=''\nside='user'\nsource='id'",
            'learning.model.fields[0].name = "": expected `str` of length >= 1',
        ),
        (
            "[[learning.model.fields]]\nname='a'\nside='user'\nsource='id'\n"
            "[[learning.model.fields]]\nname='a'\nside='item'\nsource='id'",
            "learning.model: `fields` has two of the name 'a', must have one of each",
        ),
        (
            "[learning]\nsparse_optimizer = 'adam'",
            'learning.sparse_optimizer = "adam": must be one of "sgd", "adagrad", "rowwise_adagrad", "lazy_adam"',
        ),
        (
            "[learning]\nsparse_optimizer = 'sgd'\nsparse_initial_accumulator = 0.5",
            "learning: `sparse_initial_accumulator` == 0.5, must be left out: `sgd` has none",
        ),
        ("[learning.model]\nfields = []", "learning.model.fields = []: expected `array` of length >= 1"),
        ("[learning.model]\nhidden = [0]", "learning.model.hidden[0] = 0: expected `int` >= 1"),
        ("[learning.model]\nhidden = [8, -1]", "learning.model.hidden[1] = -1: expected `int` >= 1"),
        (
            "[learning.model]\nhidden = [10_000_000_000]",
            "learning.model.hidden[0] = 10000000000: expected `int` <= 4096",
        ),
        ("[learning.model]\nhidden = [1, 1, 1, 1, 1, 1, 1, 1, 1]", "expected `array` of length <= 8"),
        ("[learning.model]\ndim = 2_000", "learning.model.dim = 2000: expected `int` <= 1024"),
        (
            "[learning.retrieval]\nname = 'two_tower'\nhidden = [5000]",
            "learning.retrieval.hidden[0] = 5000: expected `int` <= 4096",
        ),
        (
            "[learning.rows]\nadmission_threshold = 5",
            "learning.rows: `admission_threshold` == 5, must be left out: it is of `count` only",
        ),
        (
            "[learning.rows]\neviction = 'lru'\nttl_s_of_field = { user = 5.0 }",
            "learning.rows: `ttl_s_of_field` == {'user': 5.0}, must be left out: it is of `ttl` only",
        ),
        (
            "[learning.rows]\neviction = 'ttl'\nttl_s_of_field = { recent_genres = 5.0 }",
            "learning: `rows.ttl_s_of_field` names 'recent_genres', must be one of: user, item, category, genres, "
            "segment, occupation, gender, age, scene",
        ),
        (
            "[[learning.model.fields]]\nname='a'\nside='user'\nsource='id'\n"
            "[[learning.model.fields]]\nname='b'\nside='page'\nsource='id'",
            'freshet.toml: learning.model.fields[1].side = "page": must be one of "user", "item", "context"',
        ),
        (
            "[[serving.experiments]]\nname='a'\ncontrol='x'\narms=[{name='x', policy='online', wieght=2}]",
            "freshet.toml: serving.experiments[0].arms[0].wieght is unknown: must be one of name, policy, weight",
        ),
        ("[[serving.experiments]]\nname='a'\ncontrol='x'", "freshet.toml: serving.experiments[0].arms is missing"),
        ("[[streams.labels]]\ntask='buy'\nkind='click'", "must be one of: click, rating"),
        (
            "[[streams.tasks]]\nname='dwell'\ntarget='count'",
            'freshet.toml: streams.tasks[0].target = "count": must be one of "binary", "value"',
        ),
        (
            "[[streams.tasks]]\nname='a'\n[[streams.tasks]]\nname='dwell'\ntarget='value'\nshown_is_negative=true",
            "freshet.toml: streams.tasks[1]: `shown_is_negative` == true, must be false or left out",
        ),
        (
            "[[streams.tasks]]\nname='dwell'\ntarget='value'\n"
            "[[streams.labels]]\ntask='dwell'\nkind='dwell'\nat_least=3",
            "freshet.toml: streams: `labels[0].at_least` == 3.0, must be left out: `dwell` is a value task",
        ),
        (
            "[serving.pipeline]\nrank_by = 'buy'",
            "serving.pipeline.rank_by: no task 'buy', must be one of click, rating",
        ),
        (
            "[serving.pipeline]\nrank_weights = {click = 1.0, dwell = 0.1}",
            "freshet.toml: serving.pipeline.rank_weights.dwell: no task 'dwell', must be one of click, rating",
        ),
        ("[streams.kafka]\npartitions = 4", "freshet.toml: streams.kafka cannot be set here: set kafka"),
        ("[serving.features]\nredis = 'a:1'", "freshet.toml: serving.features cannot be set here: set features"),
        ("[kafka", "freshet.toml: "),
        (
            "[[serving.experiments]]\nname='a'\ncontrol='x'\n"
            "arms=[{name='x', policy='online'}, {name='y', policy='random'}]",
            "freshet.toml: learning.trainer.arm: no experiment has an arm 'online', must be one of x, or \"\" to learn",
        ),
        ("state_dir = ''", 'freshet.toml: state_dir = "": expected `str` of length >= 1'),
        ("[local]\nstart_timeout_s = inf", "freshet.toml: local.start_timeout_s = inf: must be a finite number"),
        (
            "[serving.pipeline]\nrank_weights = {click = nan}",
            "freshet.toml: serving.pipeline.rank_weights.click = nan: must be a finite number",
        ),
        (
            "[[streams.labels]]\ntask='rating'\nkind='rating'\nat_least=-inf",
            "freshet.toml: streams.labels[0].at_least = -inf: must be a finite number",
        ),
        (
            "[kafka]\nbootstrap = 'localhost'",
            'kafka.bootstrap = "localhost": must be "host:port", several with commas between them, or empty',
        ),
        ("[features]\nredis = 'redis://a:1'", 'features.redis = "redis://a:1": must be "host:port", or empty'),
        (
            "[serving.clickhouse]\naddress = 'http://a:1'",
            'serving.clickhouse.address = "http://a:1": must be "host:port", or empty',
        ),
        (
            "[serving.clickhouse]\ndatabase = 'my-logs'",
            'serving.clickhouse.database = "my-logs": must be of letters, digits and underscores, no digit first',
        ),
        (
            "[serving.triton]\ngrpc = 'a:1'",
            "freshet.toml: serving.triton: `http` == '', must be set where `grpc` is",
        ),
        ("[kafka]\npartitions = 201", "freshet.toml: kafka.partitions = 201: expected `int` <= 200"),
        ("[streams]\nmax_record_bytes = 5_000_000", "streams.max_record_bytes = 5000000: expected `int` <= 4194304"),
        (
            "[[streams.tasks]]\nname='click'\n[[streams.tasks]]\nname='click'",
            "freshet.toml: streams: `tasks` == ['click', 'click'], must have names that differ and are not empty",
        ),
        (
            "[[serving.experiments]]\nname='a'\ncontrol='y'\narms=[{name='x', policy='online'}]",
            "freshet.toml: serving: `experiments[0]`: a: `control` == 'y', must be one of x",
        ),
        (
            "[[serving.experiments]]\nname='a'\ncontrol='x'\narms=[{name='x', policy='onlin'}]",
            "`experiments[0].arms[0].policy` == 'onlin', must be one of: online, popularity, random",
        ),
        (
            "[[serving.experiments]]\nname='a'\ncontrol='x'\narms=[{name='x', policy='online'}]\n"
            "[[serving.experiments]]\nname='a'\ncontrol='x'\narms=[{name='x', policy='random'}]",
            "`experiments[1].name` == 'a', must differ from the others",
        ),
    ],
)
def test_an_error_names_the_place_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(text)
    assert message in str(caught.value)


def test_several_brokers_may_be_named() -> None:
    assert parsed("[kafka]\nbootstrap = 'a:1,b.example:29092'").streams.kafka.bootstrap == "a:1,b.example:29092"


def test_every_package_is_told_the_same_kafka_and_tasks() -> None:
    settings = parsed("[kafka]\npartitions = 7\n[[streams.tasks]]\nname='click'\n[[streams.tasks]]\nname='rating'")
    told = [settings.streams.kafka, settings.features.kafka, settings.learning.kafka, settings.serving.kafka]
    assert {kafka.partitions for kafka in told} == {7}
    assert settings.serving.features == settings.features
    assert settings.serving.learning == settings.learning
    assert [task.name for task in settings.learning.tasks] == ["click", "rating"]


def test_relative_paths_begin_at_the_settings_file_and_empty_ones_lie_in_the_state_folder() -> None:
    settings = parsed("state_dir = 'run'\n[learning.trainer]\ncheckpoint_dir = 'kept'")
    assert settings.state == HERE / "run"
    assert settings.learning.trainer.checkpoint_dir == str(HERE / "kept")
    remote = parsed("[learning.trainer]\ncheckpoint_dir = 's3://bucket/kept'")
    assert (
        remote.learning.trainer.checkpoint_dir == remote.serving.learning.trainer.checkpoint_dir == "s3://bucket/kept"
    )
    assert settings.features.repo_dir == str(HERE / "run" / "features")
    assert settings.streams.state_dir == str(HERE / "run" / "worker")


def test_stacks_of_different_folders_share_no_memory() -> None:
    shared = {parsed(f"state_dir = '{name}'").serving.shm_dir for name in ("a", "b")}
    assert len(shared) == 2
    assert parsed("state_dir = 'a'").serving.shm_dir in shared


def test_the_addresses_of_the_running_servers_reach_every_package() -> None:
    ports = {"kafka": "h:1", "redis": "h:2", "clickhouse": "h:3", "triton_grpc": "h:4", "triton_http": "h:5"}
    settings = with_addresses(parsed(""), ports)
    assert settings.streams.kafka.bootstrap == settings.serving.learning.kafka.bootstrap == "h:1"
    assert settings.serving.features.redis == "h:2"
    assert settings.serving.clickhouse.address == "h:3"
    assert (settings.serving.triton.grpc, settings.serving.triton.http) == ("h:4", "h:5")


def test_what_the_stack_writes_reads_back_the_same(tmp_path: Path) -> None:
    settings = with_addresses(parsed("[local]\nthreads = 2"), {"kafka": "127.0.0.1:1"})
    path = tmp_path / settings_module.RESOLVED
    path.write_bytes(msgspec.json.encode(settings))
    assert read_resolved(path) == settings


def test_a_folder_without_a_stack_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="freshet up"):
        settings_module.resolved(tmp_path)


def test_the_file_given_wins_over_the_one_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings_module.load().kafka.partitions == 2
    Path("freshet.toml").write_text("[kafka]\npartitions = 3")
    Path("other.toml").write_text("[kafka]\npartitions = 4")
    assert settings_module.load().kafka.partitions == 3
    assert settings_module.load(Path("other.toml")).kafka.partitions == 4
    assert settings_module.load(state_dir=Path("elsewhere")).state == tmp_path / "elsewhere"
