"""Ranks, process groups, seeds, errors and cores. Imports no other package of the project."""
