"""How this package compiles: numba to machine code, kept on disk, thrown away when any of its sources changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from numba import njit


def kernels_of(folder: Path) -> Callable[[Callable[..., Any]], Any]:
    """The decorator `kernel` for the modules of a folder: what it kept is thrown away when one of them changes."""
    sources = xxhash.xxh3_64_hexdigest(b"".join(source.read_bytes() for source in sorted(folder.glob("*.py"))))

    def kernel(function: Callable[..., Any]) -> Any:
        """Compile a function that numpy arrays, named tuples of them and numbers go into; it runs without the GIL."""
        compiled = njit(cache=True, nogil=True)(function)
        # numba trusts a kept kernel as long as its own file is unchanged, though functions of other files are compiled
        # into it: after an edit of index.py, a kept insertion would go on with the old index. Where numba's inside
        # looks different from what is expected here, that risk is back, and nothing else.
        cache_file: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
        if hasattr(cache_file, "_source_stamp"):
            cache_file._source_stamp = sources
        return compiled

    return kernel


kernel = kernels_of(Path(__file__).parent)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function into every kernel that calls it."""
    return njit(inline="always")(function)
