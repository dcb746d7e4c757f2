"""Check that what computes a recipe is installed here, if a stage needs it: the engine's packages and a compiler."""

from __future__ import annotations

import os
import shlex
import shutil

from launch.gpu import count_visible_gpus
from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.engines import apex_package, deepspeed_package
from pipeline.ground.errors import UserError


def check_engine(config: Config, stages: Stages) -> None:
    """Raise UserError if an unfinished one of `stages` needs a package that this Python lacks, or a compiler."""
    left = [stage for stage in stages.values() if not stage.is_done]
    if config.execution.compile and any(stage.stage.is_training or stage.name == "evaluate" for stage in left):
        _check_compiler()
    if not any(stage.stage.is_training for stage in left):
        return
    if config.apex is not None:
        apex_package.check_installed()
    if config.deepspeed is not None:
        deepspeed_package.check_installed()


def _check_compiler() -> None:
    """Raise UserError unless torch.compile finds the compiler that it calls: for C on a GPU (Triton), else for C++."""
    variable, names, language = ("CC", ("gcc", "clang"), "C") if count_visible_gpus() else ("CXX", ("g++",), "C++")
    given = os.environ.get(variable)
    wanted = names if given is None else shlex.split(given)[:1]
    if not any(map(shutil.which, wanted)):
        state = "not set" if given is None else repr(given)
        raise UserError(
            f"execution.compile: torch.compile needs a {language} compiler, and {' or '.join(wanted) or repr('')} is "
            f"not found ({variable} is {state}); install {names[0]}, or write execution.compile=false"
        )
