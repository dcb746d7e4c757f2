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
from pipeline.data.index import FLAGS, ImageClass, ImageIndex, make_index, read_index, write_index
from pipeline.data.source import locate
from pipeline.evaluation.ensemble import fuse
from pipeline.evaluation.expansion import count_crops
from pipeline.evaluation.members import read_members
from pipeline.evaluation.metrics import class_table, error_percent, rank_scores, worst_mistakes
from pipeline.ground.errors import EXIT_DONE
from pipeline.ground.ranks import Ranks
from pipeline.networks.layers import layer_table
from pipeline.networks.summary import summarise
from pipeline.reporting.record import RunRecord, read_run_record
from pipeline.running.attempts import Outcome, note_end, note_start
from pipeline.running.stage import Part, parts_of, place_stages
from pipeline.store.file import sha256_of
from pipeline.store.seal import read_seal
from pipeline.tracking.events import EventLog
from stages import STAGES
from tests.evaluation.ensemble_members import write_scores
from tests.sealed import seal_part

HOSTILE = "<script>alert('x')</script> & \"co\""
NAMES = {1: HOSTILE, 2: "柴犬, 秋田犬", 3: "كلب", 4: "कुत्ता"}
STEPS_PER_EPOCH = 10
CROP = {"resize_px": 32, "crop_px": 32}


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
            "frozen_epochs": 2,
            "validation": {"name": "center32", "crops": [CROP]},
        },
        "evaluate": {
            "plans": [
                {"name": "center32", "crops": [CROP]},
                {"name": "flipped", "crops": [{**CROP, "mirror": True}]},
            ]
        },
        "tracking": {"wandb": "disabled"},
        **sections,
    }
    return Config.model_validate(merged)


def make_run(folder: Path, config: Config, num_val: int = 60) -> Path:
    """Every part that the report of `config` reads, done, below `folder`/run."""
    run = folder / "run"
    run.mkdir(parents=True)
    write_run_config(run, config)
    parts = parts_of(place_stages(config, run, STAGES))
    for name in parts["report"].inputs:
        part = parts[name]
        part.directory.mkdir()
        note_start(part.directory, Ranks())
        files, metrics = WRITERS[name.partition("-")[0]](part, config, folder, num_val)
        seal_part(part, files, metrics)
        note_end(part.directory, Outcome(EXIT_DONE, "done", 0))
    return run


def read_record(config: Config, run: Path) -> RunRecord:
    """What the report stage reads of its inputs."""
    parts = parts_of(place_stages(config, run, STAGES))
    inputs = {name: parts[name].directory for name in parts["report"].inputs}
    seals = {name: seal for name, path in inputs.items() if (seal := read_seal(path, "stage"))}
    indexes = {
        str(parts[name].split): locate(read_index(path), path, config.data)
        for name, path in inputs.items()
        if parts[name].split
    }
    return read_run_record(config, inputs, seals, indexes)


def _prepare(part: Part, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    root = folder / "images" / str(part.split)
    root.mkdir(parents=True)
    generator = np.random.default_rng(7)
    for number in range(4):
        pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{number}.jpg")
    classes = [
        ImageClass(label, f"n{label:08d}", NAMES.get(label, f"word {label}, other word"), None)
        for label in range(config.model.reckoned_classes)
    ]
    num_images = max(num_val, config.model.reckoned_classes)
    index = make_index(
        str(part.split),
        config.data.dataset,
        classes,
        names=[f"{position % 4}.jpg" for position in range(num_images)],
        labels=np.arange(num_images) % config.model.reckoned_classes,
        num_bytes=np.full(num_images, 4000),
        widths=np.full(num_images, 80),
        heights=np.full(num_images, 60),
        sha256=np.zeros((num_images, 32)),
        flags=np.full(num_images, 1 << FLAGS.index("grey")),
    )
    findings = []
    if part.split == "train":
        findings.append(Finding("train", f"{HOSTILE}.jpg", "duplicate", "warning", "the same bytes as train/0.jpg"))
    return [*write_index(part.directory, index), write_findings(part.directory, findings)], {}


def _build(part: Part, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    summary = summarise(
        config.model.name,
        layer_table(config.model.name, config.model.reckoned_classes, config.train.image_size_px),
        config.train.image_size_px,
        ["layer1.0"],
    )
    summary["checks"] = [{"claim": "parameters: 1 claimed", "found": "1 found", "passed": True}]
    (part.directory / "summary.json").write_text(json.dumps(summary))
    return ["summary.json"], {}


def _train(part: Part, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    epochs = (
        (0, config.train_stage_epochs) if part.name == "train" else (config.train_stage_epochs, config.train.epochs)
    )
    log = EventLog(part.directory)
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
    metrics = {"images_per_second": 400.0, "world_size": 1, "micro_batch": 32, "accumulation": 2}
    return [], {"global_step": step, "epochs": config.train.epochs, **metrics}


def _evaluate(part: Part, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    index = read_index(_input(part, "prepare-val"))
    generator = np.random.default_rng(3)
    results = [_plan_result(part, plan, index, generator) for plan in config.evaluate.plans]
    content = {
        "weights": {"path": "weights.safetensors", "sha256": "sha256 of weights.safetensors"},
        "device": "cpu",
        "images": len(index),
        "classes": len(index.classes),
        "plans": results,
    }
    (part.directory / "results.json").write_text(json.dumps(content))
    tables = [result["per_class"] for result in results]
    return ["results.json", *tables, *(path.name for path in sorted(part.directory.glob("scores-*")))], {}


def _fuse(part: Part, config: Config, folder: Path, num_val: int) -> tuple[list[str], dict[str, Any]]:
    prepare, evaluate = _input(part, "prepare-val"), _input(part, "evaluate")
    members = read_members([evaluate / f"scores-{plan.name}.npy" for plan in config.evaluate.plans])
    index = read_index(prepare)
    fusion = fuse(members, index, prepare, config.fuse, config.seed, part.directory, read_ilsvrc2012())
    return fusion.outputs, {}


def _input(part: Part, name: str) -> Path:
    return part.directory.parent / f"{name}-{part.inputs[name]}"


def _plan_result(part: Part, plan: CropPlan, index: ImageIndex, generator: np.random.Generator) -> dict[str, Any]:
    labels, num_classes = index.labels, len(index.classes)
    logits = generator.normal(0, 1, (len(labels), num_classes))
    logits[np.arange(len(labels)), labels] += 2
    scores = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float16)
    path = write_scores(part.directory, plan.name, scores, index)
    ranking = rank_scores(scores, labels)
    table = f"per-class-{plan.name}.tsv"
    (part.directory / table).write_text(class_table(ranking, index.classes))
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
