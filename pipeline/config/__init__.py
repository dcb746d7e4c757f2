"""Recipes: typed, frozen, and read from YAML with every mistake named at once."""
