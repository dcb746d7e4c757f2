"""The training loop, its schedule, its checkpoints and the freezing of batch norms."""
