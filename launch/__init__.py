"""From a recipe to running stages on this machine: plan, run, status. Imports no torch, so it answers at once."""
