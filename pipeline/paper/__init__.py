"""The figures and statements of the paper as data, with their sources."""
