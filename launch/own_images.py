"""Whether the images at hand are those of the recipe, from the names of their folders: asked before one is decoded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from launch.job_graph import Stages
from pipeline.config.data import DataConfig
from pipeline.config.schema import Config
from pipeline.data.recognition import find_place
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.networks.layers import Cost, layer_table

_WNID = re.compile(r"n\d{8}")
_IMAGES = {".jpg", ".jpeg", ".png", ".webp"}
_SHOWN = 3


def check_own_images(config: Config, stages: Stages) -> None:
    """Check the class folders of training images that `prepare` has still to read, if there are any.

    Raises UserError if they are not ImageNet's and the recipe is, if there are no validation images beside them, if
    they are not as many as the recipe says, or if `model.expect` is of another number of them. It names every key that
    is to be changed, since each alone would only lead to the next error.
    """
    if "prepare" not in stages or config.data.root is None or config.data.is_cifar:
        return
    if all(part.is_done for part in stages["prepare"].parts if part.split == "train"):
        return
    folder = _train_folder(Path(config.data.root), config.data.train)
    names = [] if folder is None else _class_folders(folder)
    if not names:
        return
    remedies = " ".join(_remedies(config))
    if config.data.dataset == "imagenet":
        if not any(_WNID.fullmatch(name) for name in names):
            raise UserError(
                f"data.dataset: the class folders of {folder} are not those of ImageNet ({_some(names)}); for images "
                f"of your own begin with configs/own_images.yaml, or add {remedies}"
            )
        return
    if config.data.val_fraction is None and not _has_val(config.data):
        raise UserError(
            f"data.val: no validation images in {config.data.root}; name their folder, or, to hold a tenth of each "
            f"class out, add {remedies}"
        )
    given = config.model.num_classes
    if given is not None and given != len(names):
        raise UserError(
            f"model.num_classes: {folder} has {counted(len(names), 'class folder')}, {_some(names)} (given {given:,}); "
            f"to have them counted, add {remedies}"
        )
    expect = config.model.expect
    if expect is not None and config.data.dataset == "folder" and config.model.se == "default":
        parameters = Cost.of(layer_table(config.model.name, len(names))).parameters
        if parameters != expect.parameters:
            raise UserError(
                f"model.expect: {config.model.name} with {counted(len(names), 'class')} has {parameters:,} parameters "
                f"(claimed: {expect.parameters:,}); the claim is of another number of classes: add model.expect=null"
            )


def _remedies(config: Config) -> list[str]:
    """Return the overrides that make a recipe one of these classes, as far as they are needed."""
    is_split = config.data.val_fraction is not None or _has_val(config.data)
    return [
        *(["data.dataset=folder"] if config.data.dataset == "imagenet" else []),
        *(["model.num_classes=null"] if config.model.num_classes is not None else []),
        *(["model.expect=null"] if config.model.expect is not None else []),
        *([] if is_split else ["data.val_fraction=0.1"]),
    ]


def _train_folder(root: Path, name: str) -> Path | None:
    """Return the folder of the class folders, which may lie right below the root. Returns None if there is none."""
    if (root / name).exists():
        return root / name
    # Folders without images are not classes: what else may lie there, `check_places` knows.
    names = _class_folders(root)
    is_class = bool(names) and any(path.suffix.lower() in _IMAGES for path in (root / names[0]).iterdir())
    return root if is_class else None


def _has_val(data: DataConfig) -> bool:
    try:
        find_place(data, "val", may_share=False)
    except UserError:
        return False
    return True


def _class_folders(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "@")))
    except OSError:
        return []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
