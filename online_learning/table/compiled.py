"""How this package compiles: numba to machine code, kept on disk, thrown away when any of its sources changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from numba import njit

_SOURCES = xxhash.xxh3_64_hexdigest(
    b"".join(source.read_bytes() for source in sorted(Path(__file__).parent.glob("*.py")))
)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that numpy arrays and numbers go into; it runs without the GIL."""
    compiled = njit(cache=True, nogil=True)(function)
    # numba trusts a kept kernel as long as its own file is unchanged, though functions of other files are compiled
    # into it: after an edit of index.py, a kept insertion would go on with the old index. Where numba's inside looks
    # different from what is expected here, that risk is back, and nothing else.
    cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _SOURCES
    return compiled


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into every kernel that calls it."""
    return njit(inline="always")(function)
