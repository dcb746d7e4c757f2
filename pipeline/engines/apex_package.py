"""Whether NVIDIA Apex is installed, and what to do where it is not. Imports neither torch nor Apex."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from pipeline.config.engines import ApexConfig
from pipeline.ground.errors import UserError


def check_installed(options: ApexConfig) -> None:
    """UserError where Apex, or an extension that `options` need, is not there to be imported."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        raise missing("it is not installed", options)
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not any((place / "optimizers").is_dir() for place in places):
        where = places[0] if places else spec.origin
        raise missing(f"the installed apex ({where}) is another project of that name, to be removed first", options)
    for extension in extensions(options):
        if importlib.util.find_spec(extension) is None:
            raise missing(f"it was built without the extension {extension}", options)


def extensions(options: ApexConfig) -> list[str]:
    """The compiled modules that `options` need."""
    return [name for name, is_needed in (("amp_C", options.fused_sgd), ("bnp", options.nhwc_batch_norm)) if is_needed]


def missing(problem: str, options: ApexConfig) -> UserError:
    """The error that says what is missing and gives the command that builds it."""
    flag = " --nhwc-batch-norm" if options.nhwc_batch_norm else ""
    return UserError(
        f"engine: apex needs NVIDIA Apex for {sys.executable}: {problem}; build it from a checkout of "
        f"https://github.com/NVIDIA/apex with\n  bash launch/install_apex.sh PATH_TO_APEX_SOURCE{flag}"
    )
