"""Kills the processes of a stack of its own under load, and compares what is left with what should be."""
