"""How this package compiles: as the tables do, and anew when any of its sources changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from numba import njit

_SOURCES = xxhash.xxh3_64_hexdigest(
    b"".join(source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py")))
)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that numpy arrays, named tuples of them and numbers go into; it runs without the GIL."""
    compiled = njit(cache=True, nogil=True)(function)
    # A kept kernel holds compiled code of functions from other files, whose edits numba does not see.
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _SOURCES
    return compiled
