"""Crop plans, inference, scores, metrics and ensembles."""
