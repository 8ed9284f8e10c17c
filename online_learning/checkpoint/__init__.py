"""Checkpoints: table rows, dense parameters, random state and offsets as one atomic, checksummed unit."""
