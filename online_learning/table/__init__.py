"""Collision-free embedding tables: one row per key, optimizers on rows, versions, tombstones, snapshots."""
