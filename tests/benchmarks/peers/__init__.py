"""The join as others' frameworks have it, each a program of its own that `tests.benchmarks.join` starts."""
