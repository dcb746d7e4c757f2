"""A run small enough for tests: 37 generated JPEGs of many shapes, a small network of the real blocks, two plans."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.config.crop_plan import CropGroup, CropPlan, Position
from pipeline.config.reader import write_run_config
from pipeline.config.schema import Config
from pipeline.data import index as stored
from pipeline.data.index import UNLABELLED, ImageIndex, write_index
from pipeline.data.normalisation import Preprocessor
from pipeline.data.source import locate
from pipeline.evaluation.validation import validate
from pipeline.ground.distributed import Collective
from pipeline.ground.ranks import read_ranks
from pipeline.models import create_model
from pipeline.models.weights import load_weights, save_weights
from pipeline.running.stage import place_stages
from stages import STAGES
from tests.data.indexing import index_files
from tests.processes import finish, fork_context, free_port
from tests.sealed import seal_part

NUM_IMAGES = 37
NUM_CLASSES = 7
CENTER = CropPlan(name="center", crops=(CropGroup(resize_px=36, crop_px=32),))
CORNERS: tuple[Position, ...] = ("top_left", "top_right", "bottom_left", "bottom_right", "center")
MANY = CropPlan(
    name="many",
    crops=(
        CropGroup(resize_px=40, crop_px=32, positions=CORNERS, mirror=True),
        CropGroup(resize_px=48, crop_px=48, positions=("center",)),
    ),
)


def make_config(folder: Path, **evaluate: object) -> Config:
    """A recipe for the images and weights below `folder`."""
    return Config.model_validate(
        {
            "name": "small",
            "data": {"dataset": "folder", "root": str(folder), "train": "images", "val": "images"},
            "model": {"name": "senet_nano", "num_classes": NUM_CLASSES},
            "optim": {"lr": 0.1},
            "schedule": {},
            "train": {
                "epochs": 2,
                "global_batch": 30,
                "max_micro_batch": 5,
                "image_size_px": 32,
                "validation": CENTER,
            },
            "evaluate": {
                "weights": str(folder / "weights.safetensors"),
                "plans": [CENTER, MANY],
                # 3 batches of 3 and one of 1 in the last part: 12 + 12 + 12 + 1 images.
                "batch": 3,
                **evaluate,
            },
            "tracking": {"wandb": "disabled"},
            "resources": {"collective_timeout_seconds": 60},
        }
    )


def make_images(root: Path) -> None:
    """Soft blobs of colour, seeded, wide, tall and square."""
    generator = np.random.default_rng(5)
    for number in range(NUM_IMAGES):
        width, height = (int(size) for size in generator.integers(40, 90, size=2))
        coarse = Image.fromarray(generator.integers(0, 256, size=(5, 5, 3), dtype=np.uint8))
        path = root / f"class{number % NUM_CLASSES}" / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)


def make_weights(path: Path, seed: int = 3, num_classes: int = NUM_CLASSES) -> None:
    """Weights whose answers differ from image to image: random, with batch norms that have seen something."""
    model = create_model("senet_nano", num_classes, dropout=0.0, bn_momentum=1.0, seed=seed)
    torch.manual_seed(seed)
    blobs = torch.nn.functional.interpolate(torch.rand(64, 3, 5, 5), size=40, mode="bicubic")[..., 4:36, 4:36]
    with torch.no_grad():
        model.train()(4 * blobs - 2)
        model.last_linear.weight.normal_(0, 1).sub_(model.last_linear.weight.mean(1, keepdim=True))
    save_weights(path, model.state_dict(), {})


def make_run(folder: Path, name: str = "run", **evaluate: object) -> Path:
    """A run below `folder` whose images are prepared, to be evaluated with the weights of `folder`."""
    if not (folder / "images").exists():
        make_images(folder / "images")
        make_weights(folder / "weights.safetensors")
    config = make_config(folder, **evaluate)
    run = folder / name
    run.mkdir()
    write_run_config(run, config)
    prepare(folder, run, config)
    return run


def prepare(folder: Path, run: Path, config: Config) -> None:
    """Have the prepare stage done: the images of `folder` as whatever split the run wants, those of test unlabelled."""
    files = sorted((folder / "images").glob("*/*.jpg"), key=lambda path: path.name)
    for part in place_stages(config, run, STAGES)["prepare"].parts:
        part.directory.mkdir()
        index = index_files(files, NUM_CLASSES, str(part.split))
        if part.split == "test":
            index = dataclasses.replace(index, labels=np.full(len(index), UNLABELLED))
        seal_part(part, write_index(part.directory, index), images={index.split: index.digest})


def read_index(run: Path, config: Config) -> ImageIndex:
    """The index of the run's images, located."""
    directory = place_stages(config, run, STAGES)["prepare"].parts[-1].directory
    return locate(stored.read_index(directory), directory, config.data)


def evaluate_directory(run: Path, config: Config) -> Path:
    """Where the run's evaluate stage works."""
    return place_stages(config, run, STAGES)["evaluate"].directory


def validate_at(folder: Path, run: Path, world_size: int, max_micro_batch: int = 5) -> list[dict[str, object]]:
    """What `validate` says on every rank of so many real processes."""
    port = free_port()
    outputs = [folder / f"validation-{world_size}-{rank}.json" for rank in range(world_size)]
    processes = [
        fork_context().Process(
            target=_validate, args=(folder, run, max_micro_batch, rank, world_size, port, output), daemon=True
        )
        for rank, output in enumerate(outputs)
    ]
    for process in processes:
        process.start()
    assert finish(processes) == [0] * world_size
    return [json.loads(output.read_text()) for output in outputs]


def _validate(
    folder: Path, run: Path, max_micro_batch: int, rank: int, world_size: int, port: int, output: Path
) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ.update(environment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    config = make_config(folder)
    index = read_index(run, config)
    config = config.model_copy(update={"train": config.train.model_copy(update={"max_micro_batch": max_micro_batch})})
    collective = Collective(read_ranks(), 60)
    model = create_model("senet_nano", NUM_CLASSES)
    load_weights(model, folder / "weights.safetensors")
    preprocessor = Preprocessor(config.input, config.augmentation, collective.device, channels_last=True)
    result = validate(model, index, MANY, config, collective, preprocessor)
    output.write_text(json.dumps(vars(result)))
    collective.close()
