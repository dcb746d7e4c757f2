"""Running a stage: context, runner, attempts, provenance."""
