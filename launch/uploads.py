"""The size of what a run will upload to Weights & Biases."""

from __future__ import annotations

from launch.console import byte_size
from launch.estimate import evaluated_images, network_cost
from launch.job_graph import Stages
from pipeline.config.schema import Config
from pipeline.ground.counting import counted
from pipeline.tracking.wandb_mode import Mode, choose_mode

_BYTES_PER_SCORE = 2
_BYTES_PER_WEIGHT = 4


def describe_uploads(config: Config, placed: Stages) -> tuple[Mode, str]:
    """Return whether W&B is online, offline or disabled, and in words what it gets and how large that is."""
    tracking, plans = config.tracking, len(config.evaluate.plans)
    mode = choose_mode(tracking.wandb)
    parts = ["curves, console, report"]
    images = evaluated_images(config, placed).count
    if tracking.upload_scores and images is not None:
        size = images * config.model.reckoned_classes * _BYTES_PER_SCORE
        parts.append(f"scores of {counted(plans, 'crop plan')} and their fusion (each {byte_size(size)})")
    if tracking.upload_weights and "train" in placed:
        cost = network_cost(config)
        parts.append(f"weights, last and best (each {byte_size(_BYTES_PER_WEIGHT * (cost.parameters + cost.buffers))})")
    return mode, f"{mode}, project {tracking.project}: {', '.join(parts)}"
