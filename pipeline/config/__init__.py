"""Recipes: typed, frozen, and read from YAML with all mistakes named at once."""
