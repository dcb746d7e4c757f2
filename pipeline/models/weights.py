"""Weight files in safetensors format: a JSON header and plain numbers, so that loading one cannot run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.ground.errors import UserError
from pipeline.models.initialisation import allocate
from pipeline.store.file import replacing
from pipeline.store.weight_header import opened, read_shapes

_DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.int64: "I64",
}
_SHOWN = 3


def save_weights(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors and metadata; the file appears whole or not at all.

    The same tensors and metadata give the same bytes. The safetensors package reads the file but does not write it: it
    orders the metadata at random, raises its own kind of error for a full disk, and leaves temporary files when killed.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    # Large values first, to keep every tensor aligned in the file.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in names:
            file.write(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name, on the CPU.

    Raises UserError if the file is missing, damaged or not safetensors.
    """
    with opened(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping


def count_classes(path: Path) -> int | None:
    """Return the number of outputs of a file's network, or None if it has no classifier."""
    shape = read_shapes(path).get("last_linear.weight")
    return shape[0] if shape else None


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file's tensors into the network. Raises UserError as `read_weights` and `load_tensors` do."""
    load_tensors(model, read_weights(path), str(path))


def load_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy named tensors into the network; one on the meta device is first allocated on torch's default device.

    Raises UserError as `complete_tensors` does, and then leaves the network unchanged.
    """
    found = complete_tensors(model, tensors, source)
    # Copied rather than aliased: a file's tensors lie at any address, and some kernels round by the alignment.
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        allocate(model, torch.get_default_device())
    model.load_state_dict(found)


def require_finite(tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise UserError naming `source` and the first tensors that hold NaN or infinity."""
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        more = f", and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise UserError(
            f"{source}: holds NaN or infinity in {', '.join(broken[:_SHOWN])}{more}; such weights are no use"
        )


def complete_tensors(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> dict[str, torch.Tensor]:
    """Return named tensors completed to a network's state dict.

    Batch counters may be missing, as in weights older than PyTorch 0.4.1: they start at 0. Raises UserError naming
    `source` and the first differing tensors if they belong to another network.
    """
    expected = model.state_dict()
    counters = {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu")
        for name, tensor in expected.items()
        if name.endswith(".num_batches_tracked")
    }
    found = counters | dict(tensors)
    problems = _differences(expected, found)
    if problems:
        raise UserError("\n  ".join([f"{source}: these weights are not this network's", *problems]))
    return found


def _differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes, kinds = [], []
    for name, tensor in expected.items():
        if name in found and found[name].shape != tensor.shape:
            shapes.append(f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}")
        elif name in found and found[name].is_floating_point() != tensor.is_floating_point():
            kinds.append(f"{name} is {found[name].dtype}, not {tensor.dtype}")
    counted = {"missing": missing, "unexpected": unexpected, "of another shape": shapes, "of another type": kinds}
    return [
        f"{len(names)} of {len(expected)} tensors {what}: {', '.join(names[:_SHOWN])}"
        + (", ..." if len(names) > _SHOWN else "")
        for what, names in counted.items()
        if names
    ]
