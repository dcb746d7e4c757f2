"""Imported once by the fork server of `tests.processes`."""

import stages.runner  # noqa: F401
