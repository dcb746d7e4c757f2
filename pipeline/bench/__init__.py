"""Benchmarks against the usual alternatives: `python -m pipeline.bench`, and the probe behind `launch tune`."""
