"""Build the network from the recipe, check it against the recipe's claims, and write its initial weights."""

from __future__ import annotations

import dataclasses

import torch

from pipeline.models.claims import check_network, checked_size_px, format_checks, meta_model
from pipeline.models.senet import allocate, initialise
from pipeline.models.weights import save_weights
from pipeline.networks.spec import SPECS
from pipeline.networks.summary import format_summary, summarise
from pipeline.running.context import StageContext, StageResult
from pipeline.store.file import write_bytes, write_json


def run(context: StageContext) -> StageResult:
    """Build the network; checks come before its weights are drawn, so that a false claim costs nothing."""
    config = context.config
    model = meta_model(config.model)
    # Memory that nothing is written to yet.
    allocate(model, torch.device("cpu"))
    parameters, macs, checks = check_network(model, config.model)

    summary = summarise(SPECS[config.model.name], config.model.num_classes, checked_size_px(config.model))
    assert (summary["parameters"], summary["macs"]) == (parameters, macs), "the layer table is not the network's"
    text = format_summary(summary) + "\n\n" + format_checks(checks)
    context.events.show("note", level="info", text=text)

    initialise(model, config.seed)
    metadata = {
        "model": config.model.name,
        "num_classes": str(config.model.num_classes),
        "stage": "build",
        "seed": str(config.seed),
    }
    save_weights(context.directory / "weights.safetensors", model.state_dict(), metadata)
    write_bytes(context.directory / "summary.txt", (text + "\n").encode())
    write_json(
        context.directory / "summary.json", {**summary, "checks": [dataclasses.asdict(check) for check in checks]}
    )
    return StageResult(
        outputs=["summary.json", "summary.txt", "weights.safetensors"],
        metrics={"parameters": parameters, "gmacs": macs / 1e9},
    )
