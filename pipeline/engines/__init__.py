"""How gradients are computed, reduced and applied."""
