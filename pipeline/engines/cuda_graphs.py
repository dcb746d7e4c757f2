"""Training with CUDA graphs: each pass of a section of the network is launched at once instead of kernel by kernel.

The capture is PyTorch's own, `torch.cuda.make_graphed_callables`, in the order that works below
DistributedDataParallel: first capture, then wrap. It was written without access to a GPU, so every start verifies it
(`disagreement`).
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from pipeline.engines.autocast import AutocastNetwork
from pipeline.ground.distributed import Collective
from pipeline.ground.errors import UserError
from pipeline.ground.seeds import derive_seed
from pipeline.models.network import Network

Capture = Callable[[tuple[nn.Module, ...], tuple[tuple[torch.Tensor, ...], ...]], object]
"""Makes each module replay, in training mode, its computation for the arguments at its place."""

_BLOCKS = 9
"""Largest number of blocks of a section. All gradients of a section come at once, so it must be small enough that
summing them over the processes overlaps with the backward pass of the sections before it."""
_ROUNDING = {"float32": 2**-10, "float16": 2**-10, "bfloat16": 2**-7}
"""Distance of neighbouring numbers, relative to them; convolutions of float32 run in TF32 on newer GPUs."""


class Section(nn.Sequential):
    """Consecutive modules of the network."""

    _output: weakref.ref[torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last module's output."""
        output: torch.Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        self._output = weakref.ref(output)
        return output

    def forget_history(self) -> None:
        """Free the autograd graph of the last forward pass, even if its output is still referenced."""
        output = self._output()
        if output is not None:
            output.detach_()


class GraphedNetwork(nn.Sequential):
    """Consecutive sections, for batches of one shape."""

    def __init__(self, sections: Sequence[Section], shape: torch.Size) -> None:
        super().__init__(*sections)
        self._shape = shape

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits, which the next call overwrites."""
        # A replay copies its images to the memory of the capture's, and would broadcast a single one.
        assert images.shape == self._shape, f"captured for {self._shape} (given {images.shape})"
        output: torch.Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return output


def graph_capture(device: torch.device) -> Capture:
    """Return the CUDA graph capture function. Raises UserError without a GPU."""
    if device.type != "cuda":
        raise UserError("native.cuda_graphs: needs a GPU, and there is none here; set native.cuda_graphs: false")
    capture: Capture = torch.cuda.make_graphed_callables
    return capture


def capture_network(
    plain: AutocastNetwork,
    model: nn.Module,
    images: torch.Tensor,
    capture: Capture,
    precision: str,
    collective: Collective,
) -> AutocastNetwork:
    """Return `plain`, which runs `model`, with its sections captured for batches like `images`.

    Raises UserError on all ranks if the graphs compute something else than `plain` on any of them.
    """
    own_gradients(model)
    problem: str | None
    try:
        network = graphed(plain, images, capture)
        problem = disagreement(plain, network, model, images, precision)
    except RuntimeError as error:
        problem = f"capturing or replaying them failed ({str(error).partition(chr(10))[0]})"
    # All processes continue, or none does, and none waits for one that has failed.
    if collective.any(problem is not None):
        raise UserError(
            "native.cuda_graphs: CUDA graphs are not to be trusted here: "
            f"{problem or 'another process has found them wrong'}; set native.cuda_graphs: false"
        )
    return network


def graphed(plain: AutocastNetwork, images: torch.Tensor, capture: Capture) -> AutocastNetwork:
    """Return the same network with its sections captured for batches like `images`; see `capture_sections`."""
    return plain.rebuilt(lambda runner: capture_sections(runner, images, capture))


def split(network: nn.Module) -> list[Section]:
    """Split a network, whose blocks may be compiled, into sections of the same modules; one that is compiled as a whole
    is a section.

    The sections are new modules: capturing replaces their `forward`, and the network itself, which is evaluated, copied
    and saved, must not change.
    """
    parts = network.sections(_BLOCKS) if isinstance(network, Network) else [[network]]
    return [Section(*modules) for modules in parts]


def capture_sections(network: nn.Module, images: torch.Tensor, capture: Capture) -> GraphedNetwork:
    """Return the network as sections captured for batches like `images`; changes batch norm statistics.

    No autograd graph through the parameters may be alive: the capture would meet nodes of another stream than its own.
    To be called under the autocast of training, without cached casts of the weights: the graphs must cast the current
    weights at each replay.
    """
    sections = split(network)
    samples = _inputs(sections, images)
    # Graphs of an earlier engine that are garbage-collected during the capture would break it.
    gc.collect()
    capture(tuple(sections), tuple((sample,) for sample in samples))
    for section in sections:
        # The captured output would keep the capture's autograd graph, whose last nodes, those that add to the
        # parameters' gradients, belong to the capture's stream. DistributedDataParallel must get new ones.
        section.forget_history()
    return GraphedNetwork(sections, images.shape)


def _inputs(sections: Sequence[Section], images: torch.Tensor) -> list[torch.Tensor]:
    """Return the input of each section, as in training, in memory of its own. All but the images need gradients."""
    samples = [images.clone()]
    for section in sections:
        samples.append(section(samples[-1]).detach().clone().requires_grad_())
    return samples[:-1]


def own_gradients(model: nn.Module) -> None:
    """Give every parameter a gradient to add to, which must then be cleared in place.

    A parameter without one would take the graph's own buffer for its gradient (as PyTorch does to save a copy), and the
    next replay would overwrite the accumulated sum.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def disagreement(
    plain: nn.Module, graphed: nn.Module, model: nn.Module, images: torch.Tensor, precision: str
) -> str | None:
    """Describe the first difference between the results of `graphed` and `plain`, or return None.

    Both are the network `model`, and train it on `images` and on the same in another order, gradients adding up, from
    the same state and with the same dropout. Logits, gradients and batch norm statistics must agree within the rounding
    of `precision` and the differences between two runs of `plain`. The weights differ from those at the capture, to
    detect graphs that keep a copy of them. `model`, which must have gradients of its own, is restored, with gradients
    of zero.
    """
    before, batches = _copy_of(model.state_dict()), (images, images.flip(0))
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(derive_seed("cuda graphs", "weights"))
        _move_weights(model)
        moved = _copy_of(model.state_dict())
        expected, again, found = (_trial(network, model, moved, batches) for network in (plain, plain, graphed))
    model.load_state_dict(before)
    _clear_gradients(model)
    wrong = []
    for name, value in expected.items():
        size, noise = float(value.norm()), float((again[name] - value).norm())
        distance = float((found[name] - value).norm())
        # Written so that a distance of NaN fails.
        if not distance <= 8 * _ROUNDING[precision] * size + 3 * noise:
            wrong.append(f"{name}, by {distance / size if size else distance:.2g} of itself")
    if not wrong:
        return None
    return f"{wrong[0]}" + (f", and {len(wrong) - 1} others" if len(wrong) > 1 else "")


@torch.no_grad()
def _move_weights(model: nn.Module) -> None:
    """Move each tensor by a twentieth of its length, in a random direction.

    Enough to change the logits of a network of many layers, and too little for frozen batch norms to let its maps grow
    out of float16.
    """
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        parameter.add_(noise * (0.05 * parameter.norm() / noise.norm()))


def _trial(
    network: nn.Module, model: nn.Module, state: Mapping[str, torch.Tensor], batches: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return logits, summed gradients and batch norm statistics after a pass over all batches from `state`."""
    model.load_state_dict(dict(state))
    _clear_gradients(model)
    torch.manual_seed(derive_seed("cuda graphs", "dropout"))
    logits = []
    for images in batches:
        answer = network(images)
        labels = torch.arange(len(answer), device=answer.device) % answer.shape[1]
        # The sum, not the mean: without the scaler's help, gradients of float16 are not to vanish.
        nn.functional.cross_entropy(answer, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        logits.append(answer.detach().clone())
    gradients = {
        f"the gradient of {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }
    statistics = {name: buffer.to(torch.float32, copy=True) for name, buffer in model.named_buffers()}
    return {"the logits": torch.cat(logits), **gradients, **statistics}


def _copy_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _clear_gradients(model: nn.Module) -> None:
    model.zero_grad(set_to_none=False)
