"""From a recipe to running stages on this machine: plan, run, status. Never imports torch, so it answers at once."""
