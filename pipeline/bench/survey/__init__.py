"""Measurements of a GPU that precede any optimisation for it. Needs torch, triton and timm."""
