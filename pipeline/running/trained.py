"""The trained weights of a run, or those that its recipe names, with the images that they are evaluated on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pipeline.data.index import ImageIndex, check_num_classes
from pipeline.data.preprocessing import Preprocessing, read_preprocessing
from pipeline.evaluation.loading import load_network
from pipeline.evaluation.network_classes import ClassMapping, map_classes
from pipeline.ground.errors import UserError
from pipeline.models.network import Network
from pipeline.models.weights import count_classes
from pipeline.running.context import StageContext
from pipeline.running.named_files import digest_of
from pipeline.running.named_weights import WEIGHTS, resolve_weights
from pipeline.store.file import sha256_of
from pipeline.store.weight_header import read_metadata


@dataclasses.dataclass(frozen=True)
class Trained:
    """Weights, their preprocessing, and the images of the evaluated split."""

    weights: Path
    weights_sha256: str
    preprocessing: Preprocessing
    """That of the weight file, or else the recipe's."""
    index: ImageIndex
    """With the network's classes and labels."""
    mapping: ClassMapping | None
    """How the images' own classes became the network's; None if they are the same."""

    def load(self, context: StageContext) -> Network:
        """Return the network on the rank's device, see `load_network`."""
        config = context.config
        return load_network(
            config.model,
            len(self.index.classes),
            self.weights,
            self.preprocessing,
            config.execution,
            context.collective.device,
            is_checked=context.ranks.is_main,
        )


def find_trained(context: StageContext) -> Trained:
    """Return the weights of a stage that declares the inputs and files of `evaluate`. All ranks call it."""
    weights = _weights_file(context)
    metadata = read_metadata(weights)
    images = context.images(context.config.evaluate.split)
    mapping = _map_classes(context, images, weights, metadata)
    return Trained(
        weights=weights,
        weights_sha256=context.collective.broadcast(
            _weights_sha256(context, weights) if context.ranks.is_main else None
        ),
        preprocessing=_preprocessing(context, weights, metadata),
        index=images if mapping is None else mapping.applied(images),
        mapping=mapping,
    )


def _weights_file(context: StageContext) -> Path:
    if context.config.evaluate.weights is not None:
        return resolve_weights(context.config.evaluate.weights, context.run)
    trained = context.inputs["freeze_bn"] if "freeze_bn" in context.inputs else context.inputs["train"]
    return trained / WEIGHTS


def _map_classes(
    context: StageContext, images: ImageIndex, weights: Path, metadata: Mapping[str, str]
) -> ClassMapping | None:
    """Find the classes of the images among those of the weights. None if they are the same."""
    config = context.config
    if config.evaluate.weights is None:
        if config.evaluate.split == "val":
            check_num_classes(images, config.model.num_classes)
        return None
    num_classes = count_classes(weights) or config.model.num_classes or len(images.classes)
    file = None if config.evaluate.classes is None else Path(config.evaluate.classes)
    folders = [image_class.folder for image_class in images.classes]
    mapping = map_classes(images.split, folders, num_classes, metadata, file, str(weights))
    if mapping is not None and folders:
        here, there = (f"{len(classes):,}" for classes in (images.classes, mapping.classes))
        context.note(f"the {here} classes of the images are found among the network's {there}")
    return mapping


def _weights_sha256(context: StageContext, weights: Path) -> str:
    """Hash the weight file. Raises UserError if its content is not the one that the stage's key was made from."""
    found = sha256_of(weights)
    if context.config.evaluate.weights is not None and found != digest_of(weights, context.run):
        raise UserError(
            f"{weights}: not the file that this run was set up with (the same size and time, another SHA-256); put the "
            "old one back, or touch this one and launch again"
        )
    return found


def _preprocessing(context: StageContext, weights: Path, metadata: Mapping[str, str]) -> Preprocessing:
    """Return the preprocessing of the weight file, or else the recipe's."""
    pixels = context.config.input
    recipe = Preprocessing(pixels.mean, pixels.std, "bilinear_antialias")
    asked = read_preprocessing(metadata, str(weights))
    if asked is None:
        return recipe
    if asked != recipe:
        text = f"{weights} asks for other preprocessing than the recipe's, and gets it: {asked.sentence()}"
        context.events.show("note", level="info", text=text)
    return asked
