"""Crash-safe storage: files, seals, journals and locks."""
