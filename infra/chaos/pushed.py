"""What Feast holds when all has come to rest, against the topic `features`."""

from collections import Counter
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from features.definitions import history_folder
from features.positions import Positions
from features.rows import entity_key
from features.store import open_store
from features.views import VIEWS, parse_key
from infra.chaos.arena import Arena
from infra.chaos.compare import Check
from streams.logs import ends_of, raw_records
from streams.topics import FEATURES

_WAIT_S: Final = 120.0

# (view, *entity values) -> the versions of its rows, in order
Versions = dict[tuple[str, ...], list[int]]
# (view, *entity values, version)
Rows = Counter[tuple[str | int, ...]]


def pushed(arena: Arena) -> Check:
    """Every row of `features` is in the offline history once, its key's newest is online; erased keys are in neither.

    Raises Failed.
    """
    wanted = _logged(arena)
    expected: Rows = Counter((*key, version) for key, versions in wanted.items() for version in versions)
    history = _history(Path(arena.settings.features.repo_dir))
    online = _online(arena, wanted)
    missing, extra = expected - history, history - expected
    wrong = []
    if missing or extra:
        wrong.append(f"history: {missing.total()} rows missing, {extra.total()} too many")
    if old := [key for key, versions in wanted.items() if online[key] != (versions[-1] if versions else None)]:
        wrong.append(f"online: {len(old)} keys are not at their newest row, as {old[0]}")
    gone = sum(not versions for versions in wanted.values())
    compared = f"{expected.total()} rows of {len(wanted) - gone} keys, {gone} erased"
    return Check("Feast holds each row once", compared, "; ".join(wrong))


def _logged(arena: Arena) -> Versions:
    """The rows behind each key's last tombstone; waits until the history holds everything up to the topic's end."""
    found: Versions = {}
    ends = ends_of(arena.settings.kafka, [FEATURES.name])
    for record in raw_records(arena.settings.kafka, ends):
        view, entities = parse_key(record.key.decode())
        rows = found.setdefault((view.name, *entities.values()), [])
        if record.value is None:
            rows.clear()
        else:
            rows.append(FEATURES.codec.decode(record.value).version)
    positions = Path(arena.settings.features.repo_dir) / "positions.json"

    def written() -> bool:
        known = Positions(positions)
        return all(known[p.partition].history >= end for p, end in ends.items())

    arena.wait(written, _WAIT_S, "the history has everything", "features")
    return found


def _history(repo: Path) -> Rows:
    """Every row of the offline history."""
    found: Rows = Counter()
    for view in VIEWS.values():
        for part in history_folder(repo, view).glob("*.parquet"):
            columns = pq.read_table(part, columns=[*view.entities, "version"]).to_pydict()
            found.update((view.name, *row) for row in zip(*columns.values(), strict=True))
    return found


def _online(arena: Arena, keys: Versions) -> dict[tuple[str, ...], int | None]:
    """The version that is online of each key, if any."""
    store = open_store(arena.settings.features)
    found: dict[tuple[str, ...], int | None] = {}
    for view in VIEWS.values():
        own = [key for key in keys if key[0] == view.name]
        entities = [entity_key(view, dict(zip(view.entities, key[1:], strict=True))) for key in own]
        declared = store.registry.get_feature_view(view.name, store.project, allow_cache=True)
        read = store.provider.online_read(store.config, declared, entities, ["version"]) if own else []
        for key, (_, values) in zip(own, read, strict=True):
            there = values is not None and values["version"].HasField("int64_val")
            found[key] = values["version"].int64_val if values is not None and there else None
    return found
