"""Run directories: stages, their keys, manifests, locks and provenance. Never imports torch."""
