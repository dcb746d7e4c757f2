"""`python -m pipeline.bench loader`: the cost of reading, decoding and cropping images.

On a machine with other users, rely on CPU seconds of all processes together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from pipeline.bench import loader_peer, pool_peer
from pipeline.bench.measurement import Contestant, Work, measure
from pipeline.bench.rounds import Comparison, per_unit
from pipeline.bench.setting import bench_config
from pipeline.config.crop_plan import builtin_plan
from pipeline.data.index import ImageIndex
from pipeline.data.loaders import build_plan_loader, build_train_loader
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.expansion import expand
from pipeline.ground.ranks import Ranks

_CPU = torch.device("cpu")
_SIZE_PX, _RESIZE_PX = 224, 256


def compare_loaders(
    index: ImageIndex, *, batch: int, workers: int, rounds: int, progress: Callable[[str], None]
) -> list[Comparison]:
    """Compare training crops and centre crops at 224 px, with `workers` threads or processes; the index holds whole
    batches.

    Ours delivers bytes, which are normalised on the device. Loaders commonly deliver normalised floats, and so do the
    peers except in the rows "bytes", and ours in the row "normalised here".
    """
    training = [*_our_training(index, batch, workers), *_peer_training(index, batch, workers)]
    centre = [*_our_centre(index, batch, workers), *_peer_centre(index, batch, workers)]
    return [
        Comparison(title, per_unit("image"), tuple(measure(contestants, rounds, progress=progress)))
        for title, contestants in (("training crops, 224 px", training), ("centre crop, 256 to 224 px", centre))
    ]


def _our_training(index: ImageIndex, batch: int, workers: int) -> list[Contestant]:
    steps = len(index) // batch

    def rounds_of(decoder: str, normalise: bool) -> Callable[[], Work]:
        config = bench_config(batch=batch, threads=workers, loader={"decoder": decoder})
        preprocessor = Preprocessor(config.input, config.augmentation, _CPU, channels_last=True)

        def run() -> Work:
            loader = build_train_loader(index, config, Ranks(), _CPU, micro_batch=batch, first_step=0, last_step=steps)
            with contextlib.closing(loader):
                return _count(preprocessor.training(taken) if normalise else taken.images for taken in loader)

        return run

    return _ours(rounds_of)


def _our_centre(index: ImageIndex, batch: int, workers: int) -> list[Contestant]:
    crops = [seen.crop for seen in expand(builtin_plan("center224"))]
    positions = np.arange(len(index), dtype=np.int64)

    def rounds_of(decoder: str, normalise: bool) -> Callable[[], Work]:
        config = bench_config(threads=workers, loader={"decoder": decoder})
        preprocessor = Preprocessor(config.input, config.augmentation, _CPU, channels_last=True)

        def run() -> Work:
            loader = build_plan_loader(index, positions, crops, batch, config.loader, _CPU)
            with contextlib.closing(loader):
                centres = (torch.as_tensor(taken.crops[0]) for taken in loader)
                return _count(preprocessor.evaluation(images) if normalise else images for images in centres)

        return run

    return _ours(rounds_of)


def _ours(rounds_of: Callable[[str, bool], Callable[[], Work]]) -> list[Contestant]:
    return [
        Contestant("ours (DALI)", "ours", rounds_of("dali", False)),
        Contestant("ours (DALI), normalised here", "other", rounds_of("dali", True)),
        Contestant("ours (threads of torchvision)", "other", rounds_of("threads", False)),
    ]


def _peer_training(index: ImageIndex, batch: int, workers: int) -> list[Contestant]:
    floats = loader_peer.training_transform(_SIZE_PX, normalise=True)
    bytes_only = loader_peer.training_transform(_SIZE_PX, normalise=False)
    timm = loader_peer.timm_loader(index, batch=batch, workers=workers, size_px=_SIZE_PX, is_training=True)
    pools = {kind: pool_peer.load_training(kind, _SIZE_PX) for kind in pool_peer.installed_pools()}
    return _peers(index, batch, workers, floats, bytes_only, timm, pools, shuffle=True)


def _peer_centre(index: ImageIndex, batch: int, workers: int) -> list[Contestant]:
    floats = loader_peer.centre_transform(_RESIZE_PX, _SIZE_PX)
    bytes_only = loader_peer.centre_transform(_RESIZE_PX, _SIZE_PX, normalise=False)
    timm = loader_peer.timm_loader(
        index, batch=batch, workers=workers, size_px=_SIZE_PX, is_training=False, crop_share=_SIZE_PX / _RESIZE_PX
    )
    pools = {kind: pool_peer.load_centre(kind, _RESIZE_PX, _SIZE_PX) for kind in pool_peer.installed_pools()}
    return _peers(index, batch, workers, floats, bytes_only, timm, pools, shuffle=False)


def _peers(
    index: ImageIndex,
    batch: int,
    workers: int,
    floats: Any,
    bytes_only: Any,
    timm: Any,
    pools: dict[str, pool_peer.Load],
    *,
    shuffle: bool,
) -> list[Contestant]:
    def loader(decode: loader_peer.Decode, transform: Any) -> Iterable[Any]:
        return loader_peer.torchvision_loader(index, decode, transform, batch=batch, workers=workers, shuffle=shuffle)

    by_torchvision, by_pil = loader_peer.decode_by_torchvision, loader_peer.decode_by_pil
    return [
        _peer("torchvision v2 + decode_jpeg", loader(by_torchvision, floats)),
        _peer("torchvision v2 + decode_jpeg, bytes", loader(by_torchvision, bytes_only)),
        _peer("torchvision v2 + PIL", loader(by_pil, floats)),
        _peer("timm create_loader", timm),
        *(
            _peer(f"threads of {kind}, bytes", pool_peer.PooledLoader(index, load, batch=batch, workers=workers))
            for kind, load in pools.items()
        ),
    ]


def _peer(name: str, loader: Iterable[Any]) -> Contestant:
    return Contestant(name, "peer", lambda: _count(images for images, _ in loader))


def _count(batches: Iterable[torch.Tensor]) -> Work:
    return Work(sum(len(images) for images in batches))
