"""What all networks have in common: parts in a row, some of them blocks, which the engines and the analysis ask for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from pipeline.models.se import SEModule
from pipeline.networks.layers import POOLING
from pipeline.networks.registry import MaxPool, SEBlock

HEAD = "last_linear"
"""Name of the classifier, the last part of every network."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Arguments of a family's `build` beside the numbers of the network's row."""

    num_classes: int
    se: SEBlock | None
    dropout: float
    """Share of the features dropped at random in training, before the classifier."""
    bn_momentum: float
    """Weight of the newest batch in the running statistics."""
    max_pool: MaxPool

    def se_module(self, stage: int, channels: int) -> SEModule | None:
        """Return the gates of a block of a stage, for maps of so many channels; None if the stage has none."""
        if self.se is None or (self.se.stages is not None and stage not in self.se.stages):
            return None
        return SEModule(stage, channels, self.se)


class Block(nn.Module):
    """A unit of a network: compiled by itself, and never split between two sections."""


class Network(nn.Sequential):
    """Maps normalised images (N, 3, H, W) to class scores (N, num_classes) before the softmax.

    Its parts are computed one after another. A part is a module, a block, or a Sequential of them, as a stage is. The
    classifier is the last and named `HEAD`; the pooling of the whole map before it, if there is one, `POOLING`.
    """

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        # By name, since a copy of the network may hold them compiled.
        self._blocks = tuple(name for name, module in self.named_modules() if isinstance(module, Block))

    def blocks(self) -> dict[str, nn.Module]:
        """Return the blocks by name, in the order of computation."""
        return {name: self.get_submodule(name) for name in self._blocks}

    def se_modules(self) -> dict[str, SEModule]:
        """Return the squeeze-and-excitation modules by name, in the order of computation."""
        return {name: module for name, module in self.named_modules() if isinstance(module, SEModule)}

    def sections(self, most_blocks: int) -> list[list[nn.Module]]:
        """Split the network into modules that, one after another, compute the same.

        A section has `most_blocks` blocks at most, all of one part, or else what lies between two runs of blocks.
        """
        found = []
        for key, group in itertools.groupby(self._steps(), lambda step: step[0]):
            modules = [module for _, module in group]
            size = most_blocks if key else len(modules)
            found += [modules[start : start + size] for start in range(0, len(modules), size)]
        return found

    def _steps(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield each step of the computation, behind the name of its run of blocks, empty outside of one."""
        for name, part in self.named_children():
            if any(block.startswith(f"{name}.") for block in self._blocks):
                yield from ((name, inner) for inner in part.children())
            else:
                yield "blocks" if name in self._blocks else "", part


def stages(
    channels: int, widths: Sequence[int], blocks: Sequence[int], unit: Callable[[int, int, int, int], Block]
) -> dict[str, nn.Module]:
    """Return the stages of a residual network, `blocks` units each, the first of which takes `channels` channels.

    `unit` makes one of its stage, counted from 1, its channels in and out, and its stride: 2 in the first unit of each
    stage but the first.
    """
    parts: dict[str, nn.Module] = {}
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        units = parts[f"layer{stage}"] = nn.Sequential()
        for index in range(count):
            units.append(unit(stage, channels, width, 2 if stage > 1 and index == 0 else 1))
            channels = width
    return parts


def head(channels: int, options: Options) -> dict[str, nn.Module]:
    """Return the last parts of most networks: global average pooling, dropout and the classifier."""
    return {
        POOLING: nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(1),
        "dropout": nn.Dropout(options.dropout),
        HEAD: nn.Linear(channels, options.num_classes),
    }
