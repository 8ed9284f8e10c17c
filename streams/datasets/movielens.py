"""MovieLens 100K (Harper & Konstan 2015): ratings with times, genres, demographics; RecBole's atomic files."""

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from streams.datasets.dataset import Dataset, DatasetMissing
from streams.records import Event, Item, User

NAME, SCENE = "ml-100k", "movies"

# The age groups of MovieLens 1M, by their lowest age.
_AGES = ((56, "56+"), (50, "50-55"), (45, "45-49"), (35, "35-44"), (25, "25-34"), (18, "18-24"), (0, "under 18"))


def user_id(raw: str) -> str:
    return f"ml-u-{raw}"


def item_id(raw: str) -> str:
    return f"ml-i-{raw}"


def open_ml_100k(folder: Path) -> Dataset:
    """Ratings as events of kind `rating` (value 1 to 5), ordered by time, then by their order in the file."""
    source = folder / NAME
    ratings = sorted(_table(source / f"{NAME}.inter"), key=lambda row: float(row["timestamp"]))

    def events(start: int) -> Iterator[Event]:
        for k, row in enumerate(islice(ratings, start, None), start):
            yield Event(
                ts=int(float(row["timestamp"]) * 1000),
                user=user_id(row["user_id"]),
                item=item_id(row["item_id"]),
                kind="rating",
                value=float(row["rating"]),
                event_id=f"{NAME}-{k}",
                scene=SCENE,
            )

    def items() -> Iterator[Item]:
        for row in _table(source / f"{NAME}.item"):
            # Two films have no genre and one no year or title: what is unknown is left out.
            genres = [genre for genre in row["class"].split() if genre != "unknown"]
            known = {"title": row["movie_title"]} if row["movie_title"] != "unkonwn" else {}
            year = {"year": int(row["release_year"])} if row["release_year"].isdigit() else {}
            yield Item(item=item_id(row["item_id"]), scene=SCENE, attributes={**known, "genres": genres, **year})

    def users() -> Iterator[User]:
        for row in _table(source / f"{NAME}.user"):
            age = next(name for lowest, name in _AGES if int(row["age"]) >= lowest)
            attributes = {"age": age, "gender": row["gender"], "occupation": row["occupation"]}
            yield User(user=user_id(row["user_id"]), attributes={**attributes})

    last_ts = int(float(ratings[-1]["timestamp"]) * 1000)
    return Dataset(NAME, SCENE, len(ratings), last_ts, events, items, users)


def _table(path: Path) -> list[dict[str, str]]:
    """The rows of an atomic file, whose header names each column `name:type`."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            names = [column.split(":")[0] for column in next(rows)]
            return [dict(zip(names, row, strict=True)) for row in rows]
    except FileNotFoundError as error:
        raise DatasetMissing(f"{NAME}: no file {path}") from error
