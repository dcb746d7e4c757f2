"""A finished run as the other stages leave it, written with their own writers, for the report to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config.crop_plan import CropPlan
from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.data.findings import Finding, write_findings
from pipeline.data.ilsvrc import read_ilsvrc2012
from pipeline.data.index import Dataset, ImageClass, ImageRecord, read_dataset, write_dataset
from pipeline.evaluation.ensemble import fuse
from pipeline.evaluation.expansion import count_crops
from pipeline.evaluation.members import read_members
from pipeline.evaluation.metrics import class_table, error_percent, rank_scores, worst_mistakes
from pipeline.networks.spec import SPECS
from pipeline.networks.summary import summarise
from pipeline.running.attempts import recorded_attempt
from pipeline.running.provenance import collect_provenance
from pipeline.running.stage import PlacedStage, place_stages
from pipeline.store.file import sha256_of
from pipeline.store.manifest import Manifest, describe_outputs, write_manifest
from pipeline.tracking.events import EventLog
from stages import STAGES
from tests.evaluation.ensemble_members import write_scores

HOSTILE = "<script>alert('x')</script> & \"co\""
STEPS_PER_EPOCH = 10
VIEW = {"resize_px": 32, "crop_px": 32}


def make_config(folder: Path, **sections: Any) -> Config:
    """A small run on a folder of images, with whole sections replaced."""
    merged: dict[str, Any] = {
        "name": "example",
        "data": {"dataset": "folder", "root": str(folder / "images")},
        "model": {"name": "senet_nano", "num_classes": 6},
        "optim": {"lr": 0.05},
        "schedule": {"drop_epochs": [3.0]},
        "train": {
            "epochs": 5,
            "global_batch": 64,
            "max_micro_batch": 32,
            "image_size_px": 32,
            "validation": {"name": "center32", "crops": [VIEW]},
        },
        "freeze_bn": {"last_epochs": 2},
        "evaluate": {
            "plans": [
                {"name": "center32", "crops": [VIEW]},
                {"name": "flipped", "crops": [{**VIEW, "mirror": True}]},
            ]
        },
        "tracking": {"wandb": "disabled"},
        **sections,
    }
    return Config.model_validate(merged)


def make_run(folder: Path, config: Config, num_val: int = 60) -> Path:
    """Every stage that the report of `config` reads, done, below `folder`/run."""
    run = folder / "run"
    run.mkdir(parents=True)
    write_run_config(run, config)
    placed = place_stages(config, run, STAGES)
    for name in (*placed["report"].inputs,):
        placed[name].directory.mkdir()
        with recorded_attempt(placed[name].directory, 1):
            outputs, metrics = WRITERS[name](placed[name], config, folder, num_val)
        _finish(placed[name], outputs, metrics)
    return run


def input_directories(config: Config, run: Path) -> dict[str, Path]:
    """What the report stage gets as inputs."""
    placed = place_stages(config, run, STAGES)
    return {name: placed[name].directory for name in placed["report"].inputs}


def _finish(placed: PlacedStage, outputs: list[str], metrics: dict[str, Any]) -> None:
    described = describe_outputs(placed.directory, outputs)
    made = (dict(placed.input_keys), described, placed.config_part, collect_provenance(), metrics)
    write_manifest(placed.directory, Manifest(placed.name, placed.key, *made))


def _prepare(placed: PlacedStage, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    root = folder / "images"
    root.mkdir()
    generator = np.random.default_rng(7)
    for number in range(4):
        pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.jpg")
    classes = [
        ImageClass(label, f"n{label:08d}", HOSTILE if label == 1 else f"word {label}, other word", None)
        for label in range(config.model.num_classes)
    ]
    records = [
        ImageRecord(f"{position % 4}.jpg", position % config.model.num_classes, 4000, 80, 60, "0" * 16, ("grey",))
        for position in range(max(num_val, config.model.num_classes))
    ]
    outputs = write_dataset(
        placed.directory,
        config.data.dataset,
        classes,
        dict.fromkeys(("train", "val"), root),
        {"train": records, "val": records},
    )
    findings = [Finding("train", f"{HOSTILE}.jpg", "duplicate", "warning", "the same bytes as train/0.jpg")]
    return [*outputs, write_findings(placed.directory, findings)], {}


def _build(placed: PlacedStage, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    summary = summarise(SPECS[config.model.name], config.model.num_classes, config.train.image_size_px)
    summary["checks"] = [{"claim": "parameters: 1 claimed", "found": "1 found", "passed": True}]
    (placed.directory / "summary.json").write_text(json.dumps(summary))
    return ["summary.json"], {}


def _train(placed: PlacedStage, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    epochs = (
        (0, config.train_stage_epochs) if placed.name == "train" else (config.train_stage_epochs, config.train.epochs)
    )
    log = EventLog(placed.directory)
    for step in range(epochs[0] * STEPS_PER_EPOCH + 1, epochs[1] * STEPS_PER_EPOCH + 1):
        epoch = step / STEPS_PER_EPOCH
        log.write(
            "train",
            global_step=step,
            epoch=epoch,
            loss=3 / step,
            lr=0.05,
            images_per_second=400.0,
            data_wait_percent=1.0,
        )
        if step % STEPS_PER_EPOCH == 0:
            errors = {"top1_error_percent": 50 / epoch, "top5_error_percent": 10 / epoch}
            log.write("validation", global_step=step, epoch=epoch, loss=1 / epoch, images=60, **errors)
    log.close()
    return [], {"global_step": step, "images_per_second": 400.0, "world_size": 1, "micro_batch": 32, "accumulation": 2}


def _evaluate(placed: PlacedStage, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    dataset = read_dataset(_input(placed, "prepare"))
    generator = np.random.default_rng(3)
    plans = config.evaluate.resolved_plans()
    results = [_plan_result(placed, plan, dataset, generator) for plan in plans]
    content = {
        "weights": {"path": "weights.safetensors", "sha256": "sha256 of weights.safetensors"},
        "device": "cpu",
        "images": len(dataset.val),
        "classes": len(dataset.classes),
        "plans": results,
    }
    (placed.directory / "results.json").write_text(json.dumps(content))
    tables = [result["per_class"] for result in results]
    return ["results.json", *tables, *(path.name for path in sorted(placed.directory.glob("scores-*")))], {}


def _fuse(placed: PlacedStage, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    prepare, evaluate = _input(placed, "prepare"), _input(placed, "evaluate")
    members = read_members([evaluate / f"scores-{plan.name}.npy" for plan in config.evaluate.resolved_plans()])
    dataset = read_dataset(prepare)
    fusion = fuse(members, dataset, prepare, config.fuse, config.seed, placed.directory, read_ilsvrc2012())
    return fusion.outputs, {}


def _input(placed: PlacedStage, name: str) -> Path:
    return placed.directory.parent / f"{name}-{placed.input_keys[name]}"


def _plan_result(
    placed: PlacedStage, plan: CropPlan, dataset: Dataset, generator: np.random.Generator
) -> dict[str, Any]:
    labels, num_classes = dataset.val.labels, len(dataset.classes)
    logits = generator.normal(0, 1, (len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += 2
    scores = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float16)
    path = write_scores(placed.directory, plan.name, scores, dataset)
    ranking = rank_scores(scores, labels)
    table = f"per-class-{plan.name}.tsv"
    (placed.directory / table).write_text(class_table(ranking, dataset.classes))
    errors = {k: ranking.errors(k) for k in (1, 5)}
    return {
        "name": plan.name,
        "images": len(labels),
        "crops": count_crops(plan),
        **{f"top{k}_error_percent": error_percent(errors[k], len(labels)) for k in (1, 5)},
        **{f"top{k}_errors": errors[k] for k in (1, 5)},
        "seconds": 2.5,
        "scores": {"file": path.name, "sha256": sha256_of(path)},
        "per_class": table,
        "mistakes": worst_mistakes(ranking, 24),
    }


WRITERS = {
    "prepare": _prepare,
    "build": _build,
    "train": _train,
    "freeze_bn": _train,
    "evaluate": _evaluate,
    "fuse": _fuse,
}
