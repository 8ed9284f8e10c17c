"""The version of a row: which trainer life wrote it, and when in that life.

A version is one unsigned 64-bit number, `epoch << 40 | sequence`: comparing versions as numbers compares epochs
first. 40 bits of sequence last 348 years at 100 frames a second; 24 bits of epoch are 16.7 million starts.
"""

SEQUENCE_BITS = 40
MAX_SEQUENCE = (1 << SEQUENCE_BITS) - 1
MAX_EPOCH = (1 << (64 - SEQUENCE_BITS)) - 1


def pack_version(epoch: int, sequence: int) -> int:
    """One number for (epoch, sequence). Raises ValueError outside their ranges."""
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"`epoch` == {epoch}, must be in [0, {MAX_EPOCH}]")
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise ValueError(f"`sequence` == {sequence}, must be in [0, {MAX_SEQUENCE}]")
    return epoch << SEQUENCE_BITS | sequence
