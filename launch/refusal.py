"""What `run`, `plan` and `submit` refuse or warn of alike."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

from launch.console import say
from launch.engine import check_engine
from launch.inputs import advise_on_sizes, check_inputs
from launch.job_graph import Stages
from pipeline.config.claims import check_claims
from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.networks.layers import layer_table

Run = tuple[str, Config, Stages]
"""Name, recipe and stages of a sweep's member; a single run has no name."""


@contextlib.contextmanager
def naming_member(name: str) -> Iterator[None]:
    """Let a UserError begin with the name of the sweep's member that it is about."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        raise UserError(f"{name}: {error}") from error


def refuse_false_claims(config: Config, stages: Stages) -> None:
    """Raise UserError if `build` is to come and would refuse the network, as far as a layer table tells."""
    model = config.model
    if model.title != model.name or model.num_classes is None or "build" not in stages or stages["build"].is_done:
        return
    check_claims(model, functools.partial(layer_table, model.name, model.num_classes))


def warnings(runs: Sequence[Run]) -> list[str]:
    """Return what is allowed in these runs and probably not meant, each warning once."""
    found: dict[str | None, None] = {}
    for _, config, stages in runs:
        found[advise_on_sizes(config, stages)] = None
        if config.report.activations and not config.measures_gates:
            found[f"warning: report.activations: no gates are measured: {config.without_gates}"] = None
    return [text for text in found if text is not None]


def warn_of_refusal(runs: Sequence[Run]) -> None:
    """Print a line if `run` would refuse here because images, weights, a package or a compiler are missing.

    No error, since the plan may be for another machine. What is true of some members of a sweep alone names them.
    """
    said: dict[str, list[str]] = {}
    for name, config, placed in runs:
        for check in (check_inputs, check_engine):
            try:
                check(config, placed)
            except UserError as error:
                said.setdefault(" ".join(str(error).split()), []).append(name)
    for text, names in said.items():
        of = "" if len(names) == len(runs) else f"{', '.join(names)}: "
        say(f"\nwarning: on this machine `run` would refuse: {of}{text}")
