"""The strongest peers on a CPU: plain pools of threads around torchvision, simplejpeg and OpenCV."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from pipeline.bench.peer import import_peer
from pipeline.data.index import ImageIndex

Array = npt.NDArray[np.uint8]
Load = Callable[[bytes], torch.Tensor]
"""Makes the network's input, as bytes, from the content of a file: (3, S, S), or (5, 3, S, S)."""
KINDS = ("torchvision", "simplejpeg", "opencv")
_MODULES = {"simplejpeg": "simplejpeg", "opencv": "cv2"}


def installed_pools() -> tuple[str, ...]:
    """Return the kinds whose package is installed."""
    return tuple(kind for kind in KINDS if importlib.util.find_spec(_MODULES.get(kind, kind)) is not None)


class PooledLoader:
    """Batches of bytes; a thread reads, decodes and crops an image."""

    def __init__(self, index: ImageIndex, load: Load, *, batch: int, workers: int) -> None:
        self._files = [Path(index.file(position)) for position in range(len(index))]
        self._load = load
        self._batch = batch
        self._workers = workers

    def __iter__(self) -> Iterator[tuple[torch.Tensor, None]]:
        with ThreadPoolExecutor(self._workers) as pool:
            images = pool.map(lambda file: self._load(file.read_bytes()), self._files)
            while batch := list(itertools.islice(images, self._batch)):
                yield torch.stack(batch), None


def load_training(kind: str, size_px: int) -> Load:
    """Return random resized crop and mirroring."""
    if kind == "opencv":
        return _opencv(lambda image, resize: _random_crop(image, resize, size_px))
    crop, flip = v2.RandomResizedCrop(size_px, antialias=True), v2.RandomHorizontalFlip()
    return _torch(kind, lambda image: flip(crop(image)))


def load_centre(kind: str, resize_px: int, crop_px: int) -> Load:
    """Return a resize of the shorter side to `resize_px`, then the centre crop."""
    if kind == "opencv":
        return _opencv(lambda image, resize: _corners(_shorter(image, resize, resize_px), crop_px)[4])
    return _torch(kind, v2.Compose([v2.Resize(resize_px, antialias=True), v2.CenterCrop(crop_px)]))


def load_five(kind: str, resize_px: int, crop_px: int) -> Load:
    """Return the four corner crops and the centre, which the device mirrors: half of the ten crops."""
    if kind == "opencv":
        return _opencv(lambda image, resize: np.stack(_corners(_shorter(image, resize, resize_px), crop_px)))
    return _torch(kind, v2.Compose([v2.Resize(resize_px, antialias=True), v2.FiveCrop(crop_px), torch.stack]))


def _torch(kind: str, transform: Callable[[torch.Tensor], Any]) -> Load:
    if kind == "torchvision":
        rgb = ImageReadMode.RGB
        return lambda content: transform(decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), rgb))
    simplejpeg = import_peer("simplejpeg", "simplejpeg")
    return lambda content: transform(torch.from_numpy(simplejpeg.decode_jpeg(content, "RGB")).permute(2, 0, 1))


def _opencv(transform: Callable[[Array, Callable[..., Array]], Array]) -> Load:
    """OpenCV resizes too; by area, since its bilinear kernel does not antialias."""
    cv2 = import_peer("cv2", "opencv-python-headless")
    cv2.setNumThreads(0)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

    def resize(image: Array, height: int, width: int) -> Array:
        resized: Array = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        return resized

    def load(content: bytes) -> torch.Tensor:
        image = transform(cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags), resize)
        return torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, -3)

    return load


def _random_crop(image: Array, resize: Callable[..., Array], size_px: int) -> Array:
    whole = torch.empty(0, *image.shape[:2])
    top, left, height, width = v2.RandomResizedCrop(size_px).make_params([whole]).values()
    crop = resize(image[top : top + height, left : left + width], size_px, size_px)
    return crop[:, ::-1] if torch.rand(()) < 0.5 else crop


def _shorter(image: Array, resize: Callable[..., Array], resize_px: int) -> Array:
    height, width = image.shape[:2]
    return resize(image, *(side * resize_px // min(height, width) for side in (height, width)))


def _corners(image: Array, crop_px: int) -> list[Array]:
    """Return the four corners and the centre."""
    bottom, right = image.shape[0] - crop_px, image.shape[1] - crop_px
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    return [image[top : top + crop_px, left : left + crop_px] for top, left in places]
