"""Programs of others that are compared with ours."""

from __future__ import annotations

import importlib
from typing import Any

from pipeline.ground.errors import UserError


def import_peer(module: str, package: str) -> Any:
    """Import a module of a package that only the benchmarks need. Raises UserError naming the package to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise
        raise UserError(
            f"this benchmark compares with {package}, which is not installed: pip install {package}"
        ) from None
