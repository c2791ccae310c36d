"""Synthetic acquisitions with known truth, and the scoring of a run against it."""
