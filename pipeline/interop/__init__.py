"""Weights that others trained, to be used here, and ours, to be used elsewhere: one module for each layout of a file.

`python -m pipeline.interop` converts; `launch weights` is how people call it. Importing this package, `preprocessing`
and `known` does not import torch.
"""
