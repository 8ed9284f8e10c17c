"""A small log of our own making in the format of MovieLens 100K, for tests that need no real data."""

from pathlib import Path


def write_log(folder: Path, rows: int, users: int = 20, items: int = 30) -> Path:
    """Writes `rows` ratings, one a second, and returns `folder`, ready for `open_dataset("ml-100k", folder)`."""
    source = folder / "ml-100k"
    source.mkdir(parents=True)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    ratings = (f"{k % users + 1}\t{k * 7 % items + 1}\t{k % 5 + 1}\t{880_000_000 + k}\n" for k in range(rows))
    (source / "ml-100k.inter").write_text(header + "".join(ratings))
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    films = (f"{k + 1}\tFilm {k + 1}\t{1950 + k}\tDrama Comedy\n" for k in range(items))
    (source / "ml-100k.item").write_text(header + "".join(films))
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
    people = (f"{k + 1}\t{20 + k}\tF\twriter\t{k:05d}\n" for k in range(users))
    (source / "ml-100k.user").write_text(header + "".join(people))
    return folder
