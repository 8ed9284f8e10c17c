"""Experiments: who gets which arm, and what the difference between arms is. Pure: no I/O, no clock, no randomness."""
