"""The life of a stage: context, runner, attempts, provenance."""
