"""The outline of the page: the sentence at its head, and its sections in order."""

from __future__ import annotations

from pipeline.ground.counting import counted
from pipeline.reporting.record import RunRecord


def describe_run(record: RunRecord) -> str:
    """Describe the run in one sentence."""
    config, val = record.config, record.val
    network: str = config.model.title
    if record.network is not None:
        network += f" ({record.network['parameters'] / 1e6:,.1f} M parameters)"
    looked = f"{counted(len(val), 'validation image')} under {counted(len(record.results['plans']), 'crop plan')}"
    if not record.is_trained:
        return f"{network} with weights from a file, evaluated on {looked} of {val.dataset}."
    trained, last = len(record.indexes["train"]), config.train.frozen_epochs
    frozen = f", the last {last if last > 1 else 'one'} with frozen batch norms" if last else ""
    return (
        f"{network}, trained on {counted(trained, 'image')} of {val.dataset} ({counted(len(val.classes), 'class')}, "
        f"{config.train.image_size_px} px) for {counted(record.epochs, 'epoch')}{frozen}; evaluated on {looked}."
    )


def sections(record: RunRecord) -> dict[str, str]:
    """Return the page's sections in order, with their short titles: the files of the folder `sections`.

    The paper comes second if this run can be compared with it, and after all results if it cannot.
    """
    results, paper = {"results": "Results"}, {"paper": "The paper"}
    own = {
        "comparison": "Other runs",
        "classes": "Classes",
        "confusions": "Confusions",
        "mistakes": "Mistakes",
        "calibration": "Calibration",
        "training": "Training",
        "gates": "Gates",
        "cost": "Crops",
        "ensemble": "Ensemble",
    }
    made = {"data": "Data", "network": "Network", "time": "Time", "provenance": "Provenance"}
    present = {
        "comparison": record.comparison is not None,
        "training": bool(record.train_events),
        "gates": record.gates is not None,
        "network": record.network is not None,
    }
    ordered = results | paper | own | made if record.is_comparable else results | own | paper | made
    return {name: title for name, title in ordered.items() if present.get(name, True)}


def why_incomparable(record: RunRecord) -> str | None:
    """Return why errors must not be compared with the paper's, or None if they may."""
    if record.val.dataset != "imagenet":
        return f"The images are {record.val.dataset}, not ImageNet: these errors say nothing about the paper's."
    if not record.is_in_paper:
        return f"The network is {record.config.model.title}: the paper has no numbers for it."
    return None
