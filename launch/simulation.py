"""`plan --simulate`: simulate a run on all its GPUs on a machine without any.

A child process, which may import torch, simulates the network and the loaders (`pipeline.running.simulate`); the rest
is counted here, step by step, with the very functions that training uses.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

from launch.console import byte_size, complain, say, show, table
from launch.estimate import (
    NO_RATE,
    Span,
    depends_on_validation,
    kept_checkpoints,
    step_spans,
    stream_order,
    training_images,
    training_rate,
)
from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.data.order import StreamOrder
from pipeline.ground.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, UserError
from pipeline.ground.interpreter import module_environment
from pipeline.running.simulation import Network, Sharding, Simulation
from pipeline.running.stage import parts_of
from pipeline.tracking.wording import duration
from pipeline.training.cadence import Cadence
from pipeline.training.schedule import LearningRate


def print_simulation(config: Config, placed: Stages) -> int:
    """Simulate and print the result. Returns the exit code, 1 if the sharding is wrong.

    Raises UserError if the number of training images is not known.
    """
    images = training_images(config, placed)
    if images.count is None:
        raise UserError(
            "--simulate: how many images there are is not known before prepare is done (given data.dataset "
            f"{config.data.dataset}); run that stage first, with --only prepare"
        )
    part = parts_of(placed).get("prepare-train")
    index = part.directory if part is not None and part.is_done else None
    say("\nsimulation, without GPUs")
    request = {
        "config": config.model_dump(mode="json"),
        "index": None if index is None else str(index),
        "images": images.count,
    }
    result = _ask(request)
    if isinstance(result, int):
        return result
    order = stream_order(config, images.count)
    spans = step_spans(config, order, placed)
    figures = table("", "")
    figures.show_header = False
    figures.add_row("network", _network(config, result.network))
    figures.add_row("lr", describe_rates(config, order))
    figures.add_row("shards", describe_sharding(result.sharding, config.train.global_batch, real=index is not None))
    figures.add_row("time", _time(config, placed, spans))
    for row in _checkpoints(config, order, spans, result.network):
        figures.add_row(*row)
    show(figures)
    if not result.sharding.is_exact:
        complain("the simulation failed: the loaders do not share the images as they must")
        return EXIT_FAILED
    return EXIT_DONE


def _ask(request: Mapping[str, object]) -> Simulation | int:
    """Return the child's result, or its exit code if it failed; it has printed the reason on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.running.simulate"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        env=module_environment(),
        start_new_session=True,  # Ctrl-C comes here alone, and `run` kills the child
    )
    if done.returncode == 0:
        return Simulation.from_json(done.stdout)
    return EXIT_USER_ERROR if done.returncode == EXIT_USER_ERROR else EXIT_FAILED


def describe_sharding(sharding: Sharding, global_batch: int, *, real: bool) -> str:
    """Describe whether each image occurs exactly once, and how many each rank gets, in plain words."""
    index = "prepare's index" if real else "an index of the published size (prepare is not done)"
    epochs = "epoch 1" if sharding.epochs == 1 else f"epochs 1 to {sharding.epochs}"
    ranks = "1 rank" if sharding.world_size == 1 else f"{sharding.world_size} ranks"
    looked_at = f"{ranks}, {epochs} (steps 1 to {sharding.steps:,}), {index} of {sharding.num_images:,} images"
    if sharding.is_exact:
        return (
            f"{looked_at}: every image exactly once an epoch; every rank {sharding.most:,} images, "
            f"{global_batch // sharding.world_size} a step"
        )
    problems = []
    if sharding.missing:
        problems.append(f"{sharding.missing:,} times an image is seen by no rank in an epoch")
    if sharding.repeated:
        problems.append(f"{sharding.repeated:,} times an image is seen more than once in an epoch")
    if sharding.foreign:
        problems.append(f"{sharding.foreign:,} times an image is asked for that the index does not have")
    if sharding.fewest != sharding.most:
        problems.append(f"a rank gets {sharding.fewest:,} images, another {sharding.most:,}")
    return f"WRONG: {looked_at}: {'; '.join(problems)}"


def describe_rates(config: Config, order: StreamOrder) -> str:
    """List the learning rate of the first step, of the peak and of each drop (or of the last step), with the steps."""
    schedule = LearningRate(config.schedule, config.optim.lr, order, config.train.epochs)
    rates = [schedule.at(step) for step in range(order.steps_for(config.train.epochs))]
    peak = rates.index(max(rates))
    parts = [f"{rates[0]:.3g} in step 1"] if peak else []
    parts.append(f"{rates[peak]:.3g} from step {peak + 1:,}")
    if config.schedule.kind == "step":
        drops = [step for step in range(peak + 1, len(rates)) if rates[step] < rates[step - 1]]
        parts += [f"{rates[step]:.3g} from step {step + 1:,}" for step in drops]
    elif config.schedule.kind == "plateau":
        parts.append("lower where validation says so")
    else:
        parts.append(f"{rates[-1]:.3g} in step {len(rates):,}")
    return ", ".join(parts)


def _network(config: Config, network: Network) -> str:
    claims = (
        f"all {network.claims} claims of model.expect hold" if network.claims else "the recipe claims nothing of it"
    )
    return (
        f"{config.model.title}, built on the meta device: {network.parameters:,} parameters, "
        f"{network.macs / 1e9:.4g} G multiply-adds an image of {network.image_size_px} px; {claims}"
    )


def _time(config: Config, placed: Stages, spans: dict[str, Span]) -> str:
    rate = training_rate(config, placed)
    if rate is None:
        return NO_RATE
    processes = config.resources.processes
    step_seconds = config.train.global_batch / (rate.images_per_second * processes)
    steps = sum(span.last - span.first for span in spans.values())
    hours = steps * step_seconds / 3600
    at_most = "at most " if depends_on_validation(config, placed) else ""
    return (
        f"{step_seconds:.3g} s a step at {rate.describe(processes)}; {at_most}{steps:,} steps take "
        f"{duration(3600 * hours)}, {processes * hours:,.1f} GPU-hours; validation and checkpoints come on top"
    )


def _checkpoints(config: Config, order: StreamOrder, spans: dict[str, Span], network: Network) -> list[tuple[str, str]]:
    """Describe how often the training stages validate and save, and the disk space needed."""
    counts, validations, kept = {}, 0, 0
    for name, span in spans.items():
        cadence, steps = Cadence(config, order, span.last), range(span.first + 1, span.last + 1)
        counts[name] = sum(map(cadence.saves_after, steps))
        validations += sum(map(cadence.validates_after, steps))
        kept += min(counts[name], kept_checkpoints(config))
    # While one is written, its predecessor still exists.
    kept += any(count > kept_checkpoints(config) for count in counts.values())
    total, size = sum(counts.values()), network.checkpoint_bytes
    by_stage = ", ".join(f"{count:,} in {name}" for name, count in counts.items())
    files = len(spans) + 1
    disk = kept * size + files * network.weight_bytes
    return [
        (
            "checkpoints",
            f"{total:,} of {byte_size(size)} ({by_stage}), {byte_size(total * size)} written in all; "
            f"{validations:,} validations",
        ),
        (
            "disk",
            f"at most {byte_size(disk)} at once: {kept} checkpoints and {files} weight files of "
            f"{byte_size(network.weight_bytes)}; the index and evaluation's scores come on top",
        ),
    ]
