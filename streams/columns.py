"""Keys and values of many records as two arrays, which compiled code makes and takes without the interpreter's lock."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Entry = tuple[bytes | None, bytes | None]


class Columns(Struct, frozen=True):
    """n records: `data` u8, their keys and values one behind the other, in turns; `sizes` i64 [2n], how large each of
    these is, -1 where it is null."""

    data: NDArray[np.uint8]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        """How many records these are."""
        return len(self.sizes) // 2

    def entries(self) -> Iterator[Entry]:
        """The records one by one."""
        sizes = self.sizes.tolist()
        ends = accumulate((max(size, 0) for size in sizes), initial=0)
        parts = (
            self.data[begin:end].tobytes() if size >= 0 else None
            for (begin, end), size in zip(pairwise(ends), sizes, strict=True)
        )
        yield from zip(parts, parts, strict=True)


def columns_of(entries: Sequence[Entry]) -> Columns:
    """Records as columns."""
    parts: list[Any] = list(chain.from_iterable(entries))
    try:
        sizes = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
        data = b"".join(parts)
    except TypeError:
        # A null: what deletes a key.
        sizes = np.array([-1 if part is None else len(part) for part in parts], dtype=np.int64)
        data = b"".join(part for part in parts if part is not None)
    return Columns(np.frombuffer(data, dtype=np.uint8), sizes)
