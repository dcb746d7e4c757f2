"""The event log, and what listens to it: the terminal and Weights & Biases."""
