"""The model `recommend` in a real Triton, started as the local stack starts it."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.local import triton
from infra.local.launch import NotReady
from serving.client import Recommender, Refused, Unavailable
from streams.records import Impression
from streams.topics import IMPRESSIONS
from tests.emptied import emptied, stack_on
from tests.serving_world import World, items
from tests.stacks import RunningStack, wait_until
from tests.stream_logs import read_list

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack(kafka_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Redis and Triton; Triton is up before its mirror has anything."""
    with stack_on(emptied(kafka_stack), tmp_path_factory.mktemp("triton") / "stack", "redis", "triton") as stack:
        yield stack


@pytest.fixture(scope="module")
def world(stack: RunningStack) -> World:
    """100 items and a model, as a replica writes them."""
    with Recommender(stack.settings.serving.triton.grpc, timeout_s=30) as client:
        assert client.recommend("u1").items == [], "an empty mirror is an empty list, not an error"
    serving = stack.settings.serving
    world = World(Path(serving.shm_dir), serving)
    world.put_items(items(100, scenes=("home", "search")))
    world.put_user("u1")
    world.put_dense(version=3)
    world.publish(sequence=5, learned={0: 10, 1: 20})
    return world


@pytest.fixture
def client(stack: RunningStack, world: World) -> Iterator[Recommender]:
    with Recommender(stack.settings.serving.triton.grpc, timeout_s=30) as client:
        yield client


def post(stack: RunningStack, *inputs: tuple[str, str, Any]) -> dict[str, Any]:
    """Plain HTTP and JSON, as curl sends it; the outputs by name."""
    named = [{"name": name, "datatype": kind, "shape": [1], "data": [value]} for name, kind, value in inputs]
    url = f"http://{stack.settings.serving.triton.http}/v2/models/recommend/infer"
    with urllib.request.urlopen(url, json.dumps({"inputs": named}).encode(), timeout=30) as response:
        return {output["name"]: output["data"] for output in json.load(response)["outputs"]}


def stubs(stack: RunningStack) -> list[psutil.Process]:
    """The processes of the models."""
    return [child for child in psutil.Process(stack.pid("triton")).children() if "stub" in child.name()]


def regions(stack: RunningStack) -> set[str]:
    """What lies in shared memory of this stack's Triton."""
    prefix = triton.shm_prefix(stack.state.folder / "triton")
    return {region.name for region in Path("/dev/shm").glob(f"{prefix}*")}


def impressions(stack: RunningStack) -> list[Impression]:
    """All impressions that Kafka has."""
    return read_list(stack.settings.kafka, IMPRESSIONS)


def test_the_python_client_gets_items_with_what_they_were_computed_from(client: Recommender) -> None:
    answer = client.recommend("u1", 10, {"scene": "home", "device": "phone"})
    assert len(set(answer.items)) == 10
    assert all(int(item[1:]) % 2 == 0 for item in answer.items), "only items of the scene"
    assert answer.versions.policy == "online"
    assert (answer.versions.dense, answer.versions.sparse) == (3, {"sparse": 5})
    assert answer.versions.learned == {0: 10, 1: 20}


def test_plain_http_gets_the_same_form_of_answer(stack: RunningStack, world: World) -> None:
    outputs = post(stack, ("user", "BYTES", "jürgen"), ("n", "INT32", 3))
    assert len(outputs["items"]) == len(outputs["scores"]) == 3
    assert json.loads(outputs["versions"][0])["policy"] == "online"
    assert outputs["request_id"][0]


def test_an_unknown_user_gets_a_full_list(client: Recommender) -> None:
    assert len(set(client.recommend("nobody has seen me", 20).items)) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("u1", 0), "`n` == 0, must be in 1..200"),
        (("", 5), "`user` has 0 characters"),
        (("u1", 5, {"scene": 7}), "`$.scene`"),
    ],
)
def test_a_malformed_request_is_refused_by_name(client: Recommender, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(Refused) as refused:
        client.recommend(*arguments)
    assert message in str(refused.value)


def test_malformed_json_is_a_client_error_over_http(stack: RunningStack, world: World) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(stack, ("user", "BYTES", "u1"), ("n", "INT32", 3), ("context", "BYTES", "{"))
    assert refused.value.code == 400
    assert "`context`" in json.load(refused.value)["error"]


def test_a_bad_request_is_nobody_elses_error(client: Recommender) -> None:
    def ask(number: int) -> str:
        try:
            return str(len(client.recommend("u1", 5 if number % 3 else 0).items))
        except Refused:
            return "refused"

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(ask, range(60)))
    assert outcomes == ["5" if number % 3 else "refused" for number in range(60)]


def test_every_answer_leaves_its_impression_and_a_dry_run_none(stack: RunningStack, client: Recommender) -> None:
    answers = [client.recommend("reader", 5, {"session": f"s{k}"}) for k in range(20)]
    dry = client.recommend("reader", 5, {"dry_run": True})
    wanted = {answer.request_id: answer for answer in answers}
    wait_until(lambda: wanted.keys() <= {i.request_id for i in impressions(stack)}, 30, "all impressions are in Kafka")
    found = impressions(stack)
    assert dry.request_id not in {impression.request_id for impression in found}
    for impression in found:
        if impression.request_id in wanted:
            answer = wanted.pop(impression.request_id)
            assert [slot.item for slot in impression.items] == answer.items
            assert all(0 < slot.propensity <= 1 for slot in impression.items)
    assert wanted == {}


def test_answers_go_on_while_the_feature_store_hangs(stack: RunningStack, client: Recommender) -> None:
    redis = psutil.Process(stack.pid("redis"))
    redis.suspend()
    try:
        assert len(client.recommend("u1", 5).items) == 5
    finally:
        redis.resume()


def test_what_the_replica_publishes_is_in_the_next_answer(world: World, client: Recommender) -> None:
    world.put_items(items(1, scenes=("brand new",)))
    world.publish(sequence=6, learned={0: 11, 1: 21})
    answer = client.recommend("u1", 5, {"scene": "brand new"})
    assert answer.items == ["i0"]
    assert answer.versions.learned == {0: 11, 1: 21}


@pytest.mark.faults
def test_a_killed_model_is_noticed_and_replaced(stack: RunningStack, client: Recommender) -> None:
    before, restarts = regions(stack), stack.restarts("triton")
    for stub in stubs(stack):
        stub.kill()
    with pytest.raises(NotReady):
        triton.probe(stack.settings.serving.triton.http, 1.0)
    stack.wait_back("triton", restarts)
    wait_until(lambda: answers(client), 60, "the client has found the new server")
    assert not before & regions(stack), "the killed one's shared memory is gone"


@pytest.mark.faults
def test_a_killed_server_comes_back_at_its_address_and_leaves_no_shared_memory(
    stack: RunningStack, client: Recommender
) -> None:
    before = regions(stack)
    stack.wait_back("triton", stack.kill("triton"))
    wait_until(lambda: answers(client), 60, "the client has found the new server")
    assert not before & regions(stack)


def answers(client: Recommender) -> bool:
    """Whether a request is answered in full."""
    try:
        return len(client.recommend("u1", 5, {"scene": "search"}).items) == 5
    except Unavailable:
        return False
