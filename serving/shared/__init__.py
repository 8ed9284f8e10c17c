"""What replica and serving share on one host: files in shared memory, written by the replica, mapped read-only."""
