"""Real logs: every row once, in time order, the same at every reading, resumable at any row."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import pytest

from streams.datasets import DATASETS, Dataset, DatasetMissing, open_dataset
from streams.records import Event

ROWS = {"ml-100k": 100_000, "globo": 2_409_924, "frappe": 288_609}


@pytest.fixture(scope="module", params=sorted(DATASETS))
def dataset(request: pytest.FixtureRequest, data: Path) -> Dataset:
    return open_dataset(request.param, data)


def _some(dataset: Dataset, start: int = 0) -> Iterator[Event]:
    return islice(dataset.events(start), 50_000)


@pytest.mark.data
def test_a_log_says_how_long_it_is_and_when_it_ends(dataset: Dataset) -> None:
    assert dataset.rows == ROWS[dataset.name]
    last = list(dataset.events(dataset.rows - 1))
    assert [event.event_id for event in last] == [f"{dataset.name}-{dataset.rows - 1}"]
    assert last[0].ts == dataset.last_ts


@pytest.mark.data
def test_events_come_in_time_order_with_their_row_as_id(dataset: Dataset) -> None:
    events = list(_some(dataset))
    assert all(a.ts <= b.ts for a, b in pairwise(events))
    assert [event.event_id for event in events] == [f"{dataset.name}-{k}" for k in range(len(events))]
    assert {event.scene for event in events} == {dataset.scene}


@pytest.mark.data
@pytest.mark.parametrize("start", [1, 19_999, 20_001, 49_000])
def test_a_log_goes_on_at_any_row_as_if_it_had_never_stopped(dataset: Dataset, start: int) -> None:
    whole = list(islice(dataset.events(0), start, start + 100))
    assert list(islice(dataset.events(start), 100)) == whole


@pytest.mark.data
def test_the_catalogue_knows_every_item_of_the_log(dataset: Dataset) -> None:
    known = [item.item for item in dataset.items()]
    assert len(known) == len(set(known))
    assert {event.item for event in _some(dataset)} <= set(known)


@pytest.mark.data
def test_movielens_brings_ratings_genres_and_people(data: Path) -> None:
    dataset = open_dataset("ml-100k", data)
    assert {event.value for event in dataset.events(0)} == {1.0, 2.0, 3.0, 4.0, 5.0}
    items = {item.item: item.attributes for item in dataset.items()}
    assert items["ml-i-1"] == {"title": "Toy Story", "genres": ["Animation", "Children's", "Comedy"], "year": 1995}
    users = {user.user: user.attributes for user in dataset.users()}
    assert len(users) == 943
    assert users["ml-u-1"] == {"age": "18-24", "gender": "M", "occupation": "technician"}
    assert {event.user for event in dataset.events(0)} == set(users)


@pytest.mark.data
def test_frappe_says_that_its_times_are_made_up_and_its_negatives_are_skips(data: Path) -> None:
    events = list(_some(open_dataset("frappe", data)))
    assert all(event.context["made_up_time"] for event in events)
    assert {event.kind for event in events} == {"click", "skip"}
    assert events[0].context["daytime"] == "afternoon"


@pytest.mark.data
def test_globo_keeps_the_session_and_not_its_future(data: Path) -> None:
    event = next(open_dataset("globo", data).events(0))
    assert event.session == "1506826329267796"
    assert "session_size" not in event.context


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_missing_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(DatasetMissing, match=str(tmp_path)):
        open_dataset(name, tmp_path)


def test_another_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="ml-100k, globo, frappe"):
        open_dataset("netflix", Path())
