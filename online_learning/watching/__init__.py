"""Watching it learn: progressive validation, calibration, drift, and the health of rows and rates."""
