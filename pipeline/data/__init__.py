"""Datasets, the order images are seen in, and the loaders."""
