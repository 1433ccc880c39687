"""Measurements of a running service: `python -m benchmarks.http` and `python -m benchmarks.retrieval`."""
