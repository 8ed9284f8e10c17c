"""How this package compiles."""

from pathlib import Path

from streams.kernels import inlined, kernels_of

__all__ = ["inlined", "kernel"]

kernel = kernels_of(Path(__file__).parent)
