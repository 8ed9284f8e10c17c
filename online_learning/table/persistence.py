"""Between a table's parts and the arrays of a snapshot."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from online_learning.table.arguments import Slots, as_keys
from online_learning.table.directory import Directory
from online_learning.table.eviction import least
from online_learning.table.export import TableFull
from online_learning.table.headers import HEADER_WORDS, IN_FLIGHT, LIVE, TOUCHED
from online_learning.table.rows import Rows
from online_learning.table.settings import EvictionPolicy
from online_learning.table.snapshot import ROW_ARRAYS
from online_learning.table.tombstones import admit_all
from online_learning.table.workers import Workers

Arrays = dict[str, NDArray[Any]]


def header_arrays(directory: Directory, slots: Slots, prefix: str = "") -> Arrays:
    """Keys, versions, marks and what is not acknowledged, of slots i64 [n]."""
    keys, versions, marks = directory.header(slots)
    pending = directory.flags[slots] & np.uint8(TOUCHED | IN_FLIGHT) != 0
    return {
        f"{prefix}keys": keys,
        f"{prefix}versions": versions,
        f"{prefix}marks": marks,
        f"{prefix}pending": pending.astype(np.uint8),
    }


def row_arrays(rows: Rows, slots: Slots, workers: Workers) -> Arrays:
    """Copies of the embeddings and the optimizer state of slots i64 [n]."""
    values = np.empty((len(slots), rows.dim), np.float32)
    state = np.empty((len(slots), rows.width), np.float32)
    rows.gather(slots, values, workers)
    if rows.width:
        rows.gather_state(slots, state, workers)
    return {"values": values, "state": state}


def load_headers(directory: Directory, arrays: Arrays, prefix: str = "") -> Slots:
    """Put a snapshot's keys and headers into an empty directory; their slots i64 [n].

    What was not acknowledged is touched: whoever was sending it is dead. Nothing is unsaved. Raises TableFull.
    """
    keys = as_keys(arrays[f"{prefix}keys"])
    slots, _ = directory.upsert(keys, np.zeros(len(keys), np.uint16), 0, 0, admit_all())
    if (slots < 0).any():
        raise TableFull(f"of the snapshot's {len(keys)} {prefix}keys only {len(directory)} fit")
    headers = directory.headers.reshape(-1, HEADER_WORDS)
    headers[slots, 1] = arrays[f"{prefix}versions"]
    headers[slots, 2] = arrays[f"{prefix}marks"]
    directory.flags[slots] = LIVE | np.where(arrays[f"{prefix}pending"] != 0, TOUCHED, 0).astype(np.uint8)
    return slots


def split_to_fit(arrays: Arrays, room: int, policy: EvictionPolicy) -> tuple[Arrays, NDArray[np.uint64]]:
    """(the `room` rows that the policy keeps, the keys u64 of those that go)."""
    gone = least(arrays["marks"], policy, len(arrays["keys"]) - room)
    kept = np.delete(np.arange(len(arrays["keys"])), gone)
    return {**arrays, **{name: arrays[name][kept] for name in ROW_ARRAYS}}, as_keys(arrays["keys"][gone])
