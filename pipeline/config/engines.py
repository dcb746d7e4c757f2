"""The training engine, and the options specific to each.

These options are operations, like the world size: they change how the same sums are carried out, and at most the last
bits of a result. Options with larger effects are in `execution`, for every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pipeline.config.execution import ExecutionConfig
from pipeline.config.section import PositiveInt, Section

EngineName = Literal["native", "apex", "deepspeed"]


class NativeConfig(Section):
    """PyTorch alone: DistributedDataParallel, its SGD, and torch.compile."""

    bucket_mb: PositiveInt = 25
    """Size of the buckets in which gradients are summed over the processes while backward continues."""
    static_graph: bool = False
    """Tell DistributedDataParallel that every pass is like the first, so that it need not search for unused
    parameters."""
    cuda_graphs: bool = False
    """Launch the passes of several blocks as one CUDA graph instead of kernel by kernel: for small batches on a GPU.
    Every start compares passes with and without, and ends with an error if they differ."""


class ApexConfig(Section):
    """The native engine with NVIDIA Apex's FusedSGD instead of PyTorch's SGD; there is nothing to choose."""


class DeepSpeedConfig(Section):
    """DeepSpeed's engine and its ZeRO optimizer."""

    zero_stage: Literal[0, 1, 2] = 1
    """State partitioned over the processes instead of replicated. 0: nothing. 1: momentum and master weights. 2: the
    reduced gradients too."""


ENGINES: dict[EngineName, type[Section]] = {"native": NativeConfig, "apex": ApexConfig, "deepspeed": DeepSpeedConfig}


def ignored_sections(engine: EngineName, sections: Mapping[str, Section | None]) -> list[str]:
    """Return a problem for each option of an engine that is not the chosen one."""
    problems = []
    for name, section in sections.items():
        if section is None or name == engine:
            continue
        for place in [f"{name}.{key}" for key in sorted(section.model_fields_set)] or [name]:
            problems.append(f"{place}: engine is '{engine}', which ignores it; set engine: {name} or leave it out")
    return problems


def native_problems(options: NativeConfig, execution: ExecutionConfig, *, only_head: bool) -> list[str]:
    """Return a problem for each setting incompatible with the options."""
    problems = []
    if options.cuda_graphs and execution.sync_bn:
        problems.append(
            "native.cuda_graphs: no graph can hold what execution.sync_bn sends between processes in every batch norm; "
            "set one of them to false (given true for both)"
        )
    if options.cuda_graphs and only_head:
        problems.append(
            "native.cuda_graphs: with train.only_head there is no backward pass to capture in the blocks; set one of "
            "them to false (given true for both)"
        )
    return problems


def describe_engine(engine: EngineName, options: Section) -> str:
    """Describe the engine and those of its options that are not at their defaults: `deepspeed (zero_stage 2)`."""
    defaults = type(options)()
    changed = [f"{name} {value}" for name, value in options if value != getattr(defaults, name)]
    return f"{engine} ({', '.join(changed)})" if changed else engine
