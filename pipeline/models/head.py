"""The head of a network: its classifier, which is all that another task needs anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pipeline.models.batch_norm import freeze_batch_norms
from pipeline.models.network import HEAD
from pipeline.models.weights import load_tensors


def is_in_head(name: str) -> bool:
    """Return whether a parameter of a network, by its full name, belongs to the classifier."""
    return name.startswith(f"{HEAD}.")


def lay_over(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> bool:
    """Put the weights of `source` into an initialised network.

    If their classifier has another size, the network keeps its own; returns whether it took theirs. Raises UserError
    naming `source` and the first differing tensors if anything else does not fit.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if is_in_head(name)}
    fits = all(name in tensors and tensors[name].shape == tensor.shape for name, tensor in own.items())
    others = {name: tensor for name, tensor in tensors.items() if fits or not is_in_head(name)}
    load_tensors(model, others if fits else others | own, source)
    return fits


def freeze_all_but_head(model: nn.Module) -> None:
    """Let nothing learn but the classifier; batch norms keep their statistics too, in train mode as well."""
    freeze_batch_norms(model, "statistics_and_affine")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_in_head(name))
