"""Layer tables, found by passing an image through a network on the meta device.

`python -m pipeline.models.tracing` makes the tables of the registry's networks again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from pipeline.config.network import ModelConfig
from pipeline.models import create_model
from pipeline.models.network import Network
from pipeline.models.shake import Mixing
from pipeline.networks.layers import IMAGES, TABLES, TRACED_CLASSES, VARIANTS, Cost, Layer, Pair, write_table
from pipeline.networks.registry import NETWORKS
from pipeline.paper.tables import read_table, table_names

_BATCH = 2
_FUNCTIONS = {"add": "sum", "iadd": "sum", "mul": "scale", "cat": "concat"}
"""What to call an operation that is no module."""


def trace_layers(model: Network, image_size_px: int) -> tuple[Layer, ...]:
    """Return every layer that a square image passes in training, in the order of computation.

    The model must be on the meta device, where sizes are computed but no values.
    """
    tracer = _LayerTracer(fx.GraphModule(model, _Tracer().trace(model)))
    was_training = model.training
    images = torch.empty(_BATCH, 3, image_size_px, image_size_px, device="meta")
    try:
        model.train()
        with torch.autograd.graph.saved_tensors_hooks(tracer.keep, lambda tensor: tensor):
            tracer.run(images)
    finally:
        model.train(was_training)
    return tuple(tracer.layers())


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Take our one operation with a derivative of its own as it is."""
        return isinstance(m, Mixing) or super().is_leaf_module(m, module_qualified_name)


class _LayerTracer(fx.Interpreter):
    """Runs a network's graph and notes its layers, and the tensors that autograd keeps."""

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self._weights = {_memory(tensor) for tensor in network.state_dict().values()}
        self._name_of: dict[fx.Node, str] = {}
        """The layer whose output a node's value is."""
        self._layers: dict[str, Layer] = {}
        self._outputs: dict[str, torch.Tensor] = {}
        self._kept: dict[int, tuple[torch.Tensor, str]] = {}
        """Tensors by their memory, with the layer during whose computation they were kept."""

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor that autograd keeps; weights, and statistics of the whole batch, are none of an image's."""
        if tensor.dim() > 1 and _memory(tensor) not in self._weights:
            self._kept.setdefault(_memory(tensor), (tensor, self._now))
        return tensor

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and note it if it is a layer."""
        module = self.fetch_attr(n.target) if n.op == "call_module" else None  # type: ignore[arg-type]
        name = self._now = str(n.target) if module is not None else _function_name(n)
        inputs = [self.env[node] for node in n.all_input_nodes]
        value = super().run_node(n)
        if n.op == "placeholder":
            self._note(n, IMAGES, value)
            return value
        fields = None if n.op == "output" else _describe(module, n, inputs, value)
        if fields is None:
            self._name_of[n] = self._name_of[n.all_input_nodes[0]]
            return value
        assert name not in self._layers, f"{name} is computed twice"
        # torch.add scales its second argument, a row of that kind its first input.
        nodes = reversed(n.all_input_nodes) if "alpha" in n.kwargs else n.all_input_nodes
        self._layers[name] = Layer(name=name, inputs=tuple(self._name_of[node] for node in nodes), **fields)
        self._note(n, name, value)
        return value

    def _note(self, node: fx.Node, name: str, value: torch.Tensor) -> None:
        self._name_of[node], self._outputs[name] = name, value

    def layers(self) -> Iterator[Layer]:
        """Yield the layers, with the number of values that are kept of each; the images count as the first one's."""
        # Of layers that share memory, as a batch norm and a ReLU in place, it is the last one's output.
        owners = {_memory(value): name for name, value in self._outputs.items()}
        first = next(iter(self._layers))
        kept: Counter[tuple[str, bool]] = Counter()
        for memory, (tensor, now) in self._kept.items():
            owner = owners.get(memory, now)
            kept[first if owner == IMAGES else owner, tensor.is_floating_point()] += tensor.numel() // _BATCH
        for name, layer in self._layers.items():
            yield dataclasses.replace(layer, saved_values=kept[name, True], saved_indices=kept[name, False])


def _memory(tensor: torch.Tensor) -> int:
    """Identify the memory of a tensor; one on the meta device has no address."""
    return int(tensor.untyped_storage()._cdata)


def _function_name(node: fx.Node) -> str:
    """Return the module that calls the function, and what the function is called here."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    owner = next(reversed(stack.values()))[0]
    return f"{owner}.{_FUNCTIONS.get(_called(node), _called(node))}"


def _called(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _describe(
    module: nn.Module | None, node: fx.Node, inputs: Sequence[torch.Tensor], output: torch.Tensor
) -> dict[str, Any] | None:
    """Return what the row says beside names; None for what computes nothing."""
    kind = _function_kind(node) if module is None else _module_kind(module, inputs[0], output)
    if kind is None:
        return None
    out_size = _side(output.shape[2:]) if output.dim() == 4 else 1
    fields: dict[str, Any] = {
        "kind": kind,
        "in_channels": inputs[0].shape[1],
        "out_channels": output.shape[1],
        "out_size": out_size,
    }
    if module is None:
        return fields
    fields["parameters"] = sum(parameter.numel() for parameter in module.parameters())
    if isinstance(module, nn.BatchNorm2d):
        fields["buffers"] = 2 * module.num_features
    if isinstance(module, nn.Conv2d | nn.Linear):
        fields |= {"bias": module.bias is not None, "macs": module.weight.numel() * out_size**2}
    if isinstance(module, nn.Conv2d):
        fields["groups"] = module.groups
    if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        fields |= {name: _pair(getattr(module, name if name != "kernel" else "kernel_size")) for name in _WINDOW}
    return fields


_WINDOW = ("kernel", "stride", "padding")
_KINDS: Mapping[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    nn.Linear: "fc",
    nn.BatchNorm2d: "bn",
    nn.ReLU: "relu",
    nn.Sigmoid: "sigmoid",
    nn.Tanh: "tanh",
    nn.ChannelShuffle: "channel_shuffle",
    nn.ZeroPad2d: "shift",
    Mixing: "shake_mix",
    nn.AdaptiveMaxPool2d: "global_max_pool",
}


def _module_kind(module: nn.Module, x: torch.Tensor, output: torch.Tensor) -> str | None:
    match module:
        case nn.Flatten() | nn.Identity() | nn.Dropout(p=0.0):
            return None
        case nn.Dropout():
            return f"dropout_{module.p:g}"
        case nn.MaxPool2d():
            return f"max_pool_{_rounding(module)}"
        case nn.AvgPool2d():
            return f"ave_pool_{_rounding(module) if module.count_include_pad else 'exclude_pad'}"
        case nn.AdaptiveAvgPool2d():
            side = _side(output.shape[2:])
            if side == 1:
                return "global_avg_pool"
            return None if x.shape == output.shape else f"ave_pool_to_{side}"
    return _KINDS[type(module)]


def _function_kind(node: fx.Node) -> str:
    if "alpha" in node.kwargs:
        return f"add_scaled_{node.kwargs['alpha']:g}"
    name = _FUNCTIONS[_called(node)]
    return "add" if name == "sum" else name


def _rounding(pool: nn.MaxPool2d | nn.AvgPool2d) -> str:
    return "ceil" if pool.ceil_mode else "floor"


def _pair(sides: int | tuple[int, int]) -> Pair:
    return sides if isinstance(sides, int) or sides[0] != sides[1] else sides[0]


def _side(shape: Sequence[int]) -> int:
    height, width = shape
    assert height == width, shape
    return height


def main() -> None:
    """Write the table of every network of the registry, and the costs of the paper's variants."""
    for name, network in NETWORKS.items():
        with torch.device("meta"):
            model = create_model(name, TRACED_CLASSES)
        write_table(trace_layers(model, network.image_size_px), TABLES / f"{name}.csv")
    VARIANTS.write_text(variant_table())


def variant_table() -> str:
    """Return the costs of the networks of the paper's ablations as CSV."""
    rows = (row for name in table_names() for row in read_table(name).rows if isinstance(row.block, Mapping))
    networks = {network.title: network for network in map(ModelConfig.of_row, rows)}
    lines = ["network,parameters,macs"]
    for title, network in networks.items():
        with torch.device("meta"):
            model = create_model(network.name, TRACED_CLASSES, se=network.block)
        cost = Cost.of(trace_layers(model, NETWORKS[network.name].image_size_px))
        lines.append(f'"{title}",{cost.parameters},{cost.macs}')
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
