"""Crop plans, scores and metrics."""
