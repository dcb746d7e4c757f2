"""What the stages are made of: networks, loaders, training, evaluation, runs. Imports neither stages nor launch."""
