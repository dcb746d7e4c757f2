"""The event log and its listeners: the terminal and Weights & Biases."""
