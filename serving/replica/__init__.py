"""The replica: one process per host that keeps what serving reads in shared memory up to date."""

from serving.replica.replica import run

__all__ = ["run"]
