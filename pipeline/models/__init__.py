"""The networks, built from specifications that are plain data."""
