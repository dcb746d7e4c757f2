"""`python -m pipeline.bench evaluate`: the cost of a crop plan if an image is decoded once for all its crops.

Every plan is measured twice: reading alone, and followed by a network. Ours has its batch norms folded, as in the
stage; the peers' is the same network unfolded or, for SENet-154, timm's. Without a GPU the network takes most of the
time.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline.bench import loader_peer, pool_peer
from pipeline.bench.measurement import Contestant, Work, measure
from pipeline.bench.peer import import_peer
from pipeline.bench.rounds import Comparison, per_unit
from pipeline.bench.setting import bench_config
from pipeline.config.crop_plan import CropGroup, CropPlan, builtin_names, builtin_plan, plan_of
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_plan_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import count_crops, expand, images_at_once
from pipeline.evaluation.inference import PlanScorer, evaluating
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.models import create_model
from pipeline.models.batch_norm import fold_batch_norms

_CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class _Setting:
    """The setting common to all contestants of a plan."""

    index: ImageIndex
    plan: CropPlan
    batch: int
    workers: int
    device: torch.device
    model: nn.Module | None
    """None if only the reading is measured."""
    peer_model: nn.Module | None


def compare_plans(
    index: ImageIndex,
    names: Sequence[str],
    model: str,
    *,
    batch: int,
    workers: int,
    rounds: int,
    progress: Callable[[str], None],
) -> list[Comparison]:
    """Compare contestants on the named built-in plans, or all, over the images of the index, with `model` behind the
    crops.

    Raises UserError if a plan or network does not exist, or if timm is not installed. A round of a plan of many crops
    takes fewer of the images.
    """
    plans = [_plan(name) for name in names or builtin_names()]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours, peers = _networks(model, device)
    comparisons = []
    with evaluating(ours), evaluating(peers):
        for plan in plans:
            for networks, what in (((None, None), "reading alone"), ((ours, peers), f"with {model}")):
                count = images_per_round(len(index), count_crops(plan), with_network=networks[0] is not None)
                setting = _Setting(index.take(np.arange(count)), plan, min(batch, count), workers, device, *networks)
                title = f"{plan.name} ({counted(count_crops(plan), 'crop')}), {what}, {counted(count, 'image')} a round"
                taken = measure(_contestants(setting), rounds, progress=progress)
                comparisons.append(Comparison(title, per_unit("image"), tuple(taken)))
    return comparisons


def images_per_round(available: int, crops: int, *, with_network: bool) -> int:
    """Return how many of `available` images make a round of seconds for any plan: the fewer, the more crops."""
    share = 4 * available // (crops + 3)
    return min(available, max(4, share // 4) if with_network else max(8, share))


def _networks(name: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Return our network as in the stage, and the one for the peers' crops."""
    network = create_model(name, _CLASSES).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    folded = fold_batch_norms(network)
    if name != "senet154":
        return folded, network
    peer: nn.Module = import_peer("timm", "timm").create_model("legacy_senet154", num_classes=_CLASSES)
    return folded, peer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _plan(name: str) -> CropPlan:
    try:
        return plan_of(name)
    except ValueError as error:
        raise UserError(f"--plans: {error}") from error


def _contestants(setting: _Setting) -> list[Contestant]:
    """Return our contestants and the peers that support the plan."""
    group = setting.plan.crops[0]
    contestants = [Contestant("ours, decoded once", "ours", lambda: _run_plan(setting))]
    if count_crops(setting.plan) == 1:
        return contestants + _centre_peers(setting, group)
    contestants.append(Contestant("decoded for every crop", "peer", lambda: _run_crop_by_crop(setting)))
    if setting.plan.crops == builtin_plan("10crop").crops:
        crop_px = group.crop_px
        assert crop_px is not None
        loader = _torchvision(setting, loader_peer.ten_crop_transform(group.resize_px, crop_px))
        contestants.append(_peer("torchvision TenCrop, decoded once", setting, loader))
        contestants += _pools(setting, lambda kind: pool_peer.load_five(kind, group.resize_px, crop_px))
    return contestants


def _pools(setting: _Setting, load: Callable[[str], pool_peer.Load]) -> list[Contestant]:
    """Return pools of threads, which deliver bytes as ours does."""
    sizes = {"batch": setting.batch, "workers": setting.workers}
    return [
        _peer(f"threads of {kind}", setting, pool_peer.PooledLoader(setting.index, load(kind), **sizes))
        for kind in pool_peer.installed_pools()
    ]


def _centre_peers(setting: _Setting, group: CropGroup) -> list[Contestant]:
    crop_px = group.crop_px
    assert crop_px is not None, "a dense group is always mirrored in the built-in plans"
    timm = loader_peer.timm_loader(
        setting.index,
        batch=setting.batch,
        workers=setting.workers,
        size_px=crop_px,
        is_training=False,
        crop_share=crop_px / group.resize_px,
    )
    torchvision = _torchvision(setting, loader_peer.centre_transform(group.resize_px, crop_px))
    return [
        _peer("timm's loader", setting, timm),
        _peer("torchvision v2 + decode_jpeg", setting, torchvision),
        *_pools(setting, lambda kind: pool_peer.load_centre(kind, group.resize_px, crop_px)),
    ]


def _torchvision(setting: _Setting, transform: Any) -> Iterable[Any]:
    return loader_peer.torchvision_loader(
        setting.index,
        loader_peer.decode_by_torchvision,
        transform,
        batch=setting.batch,
        workers=setting.workers,
        shuffle=False,
    )


def _peer(name: str, setting: _Setting, loader: Iterable[Any]) -> Contestant:
    """Return a loader of one group (N, 3, S, S) or several (N, V, 3, S, S), averaging probabilities.

    Floats are normalised; bytes are not yet, and five crops of them not yet mirrored.
    """

    def run() -> Work:
        count = 0
        for images, _ in loader:
            count += len(images)
            if setting.peer_model is not None:
                crops = images.to(setting.device)
                if images.dtype == torch.uint8:
                    crops = normalised(crops if crops.ndim == 4 else torch.cat([crops, crops.flip(-1)], dim=1))
                crops = crops.flatten(0, -4).contiguous(memory_format=torch.channels_last)
                # In batches of the same size as ours.
                logits = torch.cat([setting.peer_model(part) for part in crops.split(setting.batch)])
                logits.softmax(1).view(len(images), -1, logits.shape[1]).mean(1)
        return Work(count)

    mean, std = (
        torch.tensor(each, device=setting.device).view(3, 1, 1) for each in (loader_peer.MEAN, loader_peer.STD)
    )

    def normalised(images: torch.Tensor) -> torch.Tensor:
        return (images.float() / 255 - mean) / std

    return Contestant(name, "peer", run)


def _run_plan(setting: _Setting) -> Work:
    """Run the plan as the stage `evaluate` does."""
    _score(setting, setting.plan, np.arange(len(setting.index), dtype=np.int64))
    return Work(len(setting.index))


def _run_crop_by_crop(setting: _Setting) -> Work:
    """Run the same loader and network, but read and decode an image again for each of its crops."""
    for group in setting.plan.crops:
        first = {"squares": group.squares[:1], "positions": group.positions[:1], "mirror": False}
        once = group.model_copy(update=first)
        count = len(group.places()) * (2 if group.mirror else 1)
        positions = np.repeat(np.arange(len(setting.index), dtype=np.int64), count)
        _score(setting, CropPlan(name="once", crops=(once,)), positions)
    return Work(len(setting.index))


def _score(setting: _Setting, plan: CropPlan, positions: npt.NDArray[np.int64]) -> None:
    crops = [seen.crop for seen in expand(plan)]
    # What loader.decoder=auto takes of a whole split.
    decoder = "threads" if len(crops) > 1 else "dali"
    config = bench_config(threads=setting.workers, loader={"decoder": decoder})
    preprocessor = Preprocessor(config.input, config.augmentation, setting.device, channels_last=True)
    scorer = None
    if setting.model is not None:
        scorer = PlanScorer(setting.model, plan, config.execution, preprocessor, setting.device, setting.batch)
    at_once = images_at_once(plan, setting.batch)
    loader = build_plan_loader(setting.index, positions, crops, at_once, config.loader, setting.device)
    with contextlib.closing(loader):
        for taken in loader:
            if scorer is not None:
                scorer.log_probabilities(taken.crops)
