"""The libraries of the stages: networks, loaders, training, evaluation, runs. Imports neither stages nor launch."""
