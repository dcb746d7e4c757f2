"""Build the network from the recipe, check it against the recipe's claims, and write its initial weights."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from pipeline.config.claims import checked_size_px, format_checks
from pipeline.data.index import read_index
from pipeline.data.preprocessing import read_preprocessing
from pipeline.ground.counting import counted
from pipeline.ground.errors import UserError
from pipeline.models.claims import check_network, meta_model
from pipeline.models.head import lay_over
from pipeline.models.initialisation import allocate, initialise
from pipeline.models.weights import read_weights, require_finite, save_weights
from pipeline.networks.summary import format_summary, summarise
from pipeline.running.context import StageContext, StageResult
from pipeline.running.named_files import digest_of
from pipeline.running.named_weights import resolve_weights
from pipeline.store.file import sha256_of, write_bytes, write_json
from pipeline.store.weight_header import read_metadata


def run(context: StageContext) -> StageResult:
    """Build the network; checks come before its weights are drawn, so that a false claim costs nothing."""
    config = context.config
    num_classes, images = _count_classes(context)
    model = meta_model(config.model, num_classes)
    layers, checks = check_network(model, config.model)
    summary = summarise(config.model.title, layers, checked_size_px(config.model), model.blocks())
    text = format_summary(summary) + "\n\n" + format_checks(checks)
    context.events.show("note", level="info", text=text)

    allocate(model, torch.device("cpu"))
    initialise(model, config.seed)
    begun_with = _lay_weights_over(context, model)
    metadata = {
        **config.model.metadata(),
        "num_classes": str(num_classes),
        "stage": "build",
        "seed": str(config.seed),
        **begun_with,
    }
    save_weights(context.directory / "weights.safetensors", model.state_dict(), metadata)
    write_bytes(context.directory / "summary.txt", (text + "\n").encode())
    write_json(
        context.directory / "summary.json", {**summary, "checks": [dataclasses.asdict(check) for check in checks]}
    )
    return StageResult(
        outputs=["summary.json", "summary.txt", "weights.safetensors"],
        metrics={"parameters": summary["parameters"], "gmacs": summary["macs"] / 1e9},
        images=images,
    )


def _lay_weights_over(context: StageContext, model: nn.Module) -> dict[str, str]:
    """Begin with the weights that the recipe names. Returns what the file of initial weights says of them.

    Raises UserError if they are another network's, or not those that the part's key was made of.
    """
    named = context.config.model.weights
    if named is None:
        return {}
    path = resolve_weights(named, context.run, "model.weights")
    digest = sha256_of(path)
    if digest != digest_of(path, context.run):
        raise UserError(f"model.weights: {path} has changed since this run was set up; run the same command again")
    tensors, metadata = read_weights(path), read_metadata(path)
    require_finite(tensors, str(path))
    try:
        is_whole = lay_over(model, tensors, str(path))
    except UserError as error:
        raise UserError(f"model.weights: {error}\nchoose the network that they belong to in model.name") from error
    head = "their classifier included" if is_whole else "but for the classifier, which has another size and is new"
    context.note(f"beginning with the weights of {path}, {head}")
    preprocessing = read_preprocessing(metadata, str(path))
    return {"weights_sha256": digest, **({} if preprocessing is None else preprocessing.metadata())}


def _count_classes(context: StageContext) -> tuple[int, dict[str, str]]:
    """Return the number of classes, and the digest of the training images if it was counted in their index."""
    given = context.config.model.num_classes
    if given is not None:
        return given, {}
    index = read_index(context.inputs["prepare-train"])
    context.note(f"{counted(len(index.classes), 'class')} counted")
    return len(index.classes), {"train": index.digest}
