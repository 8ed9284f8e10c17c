"""How this package compiles: as the tables do, and anew when any of its sources changes."""

from pathlib import Path

from online_learning.table.compiled import kernels_of

kernel = kernels_of(Path(__file__).parent)
