"""Benchmarks against what a user would pick instead: `python -m pipeline.bench`, and the probe behind `launch tune`."""
