"""Names that other projects have for things of a recipe, and what each of them is here.

Also short names that only one key ends with, though a person who writes them may well mean another.
"""

from __future__ import annotations

_BATCH = (
    "write train.global_batch (images of an optimizer step, over all processes), train.max_micro_batch (what one GPU "
    "takes at once) or evaluate.batch (crops at once in the evaluation)"
)
_PROCESSES = "write resources.processes (one for each GPU)"
_PRECISION = "write execution.precision (float32, bfloat16 or float16)"
_THREADS = "write loader.threads (decoding threads of each process)"
_RATE = "write optim.lr (for the global batch; it is never rescaled)"
_ROOT = "write data.root (the folder that holds the images)"
_DEVICE = (
    "GPUs are used where there are any: as many as resources.processes says, those that CUDA_VISIBLE_DEVICES leaves; "
    "CUDA_VISIBLE_DEVICES= (empty) trains on the CPU"
)
_RESUME = "there is no such key: the same command goes on where the run was"
_DIRECTORY = "there is no such key: give --run DIR"

_ANSWERS = {
    "batch": _BATCH,
    "batch_size": _BATCH,
    "batchsize": _BATCH,
    "bs": _BATCH,
    "micro_batch": "write train.max_micro_batch (what one GPU takes at once)",
    "accumulation": "write train.max_micro_batch: a global batch that does not fit is accumulated by itself",
    "accumulation_steps": "write train.max_micro_batch: a global batch that does not fit is accumulated by itself",
    "learning_rate": _RATE,
    "base_lr": _RATE,
    "workers": _THREADS,
    "num_workers": _THREADS,
    "gpus": _PROCESSES,
    "num_gpus": _PROCESSES,
    "devices": _PROCESSES,
    "world_size": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "device": _DEVICE,
    "gpu": _DEVICE,
    "cuda": _DEVICE,
    "wd": "write optim.weight_decay",
    "decay": "write optim.weight_decay (the factor) or optim.decay (all or weights: what decays)",
    "amp": _PRECISION,
    "fp16": _PRECISION,
    "bf16": _PRECISION,
    "dtype": _PRECISION,
    "mixed_precision": _PRECISION,
    "num_epochs": "write train.epochs",
    "max_epochs": "write train.epochs",
    "warmup": "write schedule.warmup_epochs",
    "scheduler": "write schedule.kind (step or cosine)",
    "lr_scheduler": "write schedule.kind (step or cosine)",
    "milestones": "write schedule.drop_epochs",
    "gamma": "write schedule.drop_factor",
    "arch": "write model.name",
    "classes": (
        "write model.num_classes (how many there are) or evaluate.classes (the file that says which of the network's "
        "classes each folder is)"
    ),
    "pretrained": "write model.weights (a weight file, or a run)",
    "finetune": "write model.weights (what training begins with), and train.only_head=true to freeze the rest",
    "freeze": "write train.only_head (the classifier alone learns) or train.frozen_epochs (frozen batch norms)",
    "resume": _RESUME,
    "checkpoint_path": _RESUME,
    "img_size": "write train.image_size_px",
    "image_size": "write train.image_size_px",
    "data_dir": _ROOT,
    "data_path": _ROOT,
    "dataset_path": _ROOT,
    "output": _DIRECTORY,
    "output_dir": _DIRECTORY,
    "smoothing": "write train.label_smoothing",
}


def answer_for(name: str) -> str | None:
    """Return what to write for a name that is no key, or not clearly one. Returns None for all others."""
    return _ANSWERS.get(name)
