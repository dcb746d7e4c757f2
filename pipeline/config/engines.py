"""Which engine trains, and the options that only one of them has.

These options are operations, like the number of processes: they change how the same sums are carried out, and at most
the last bits of a result. What changes more than that is in `execution`, for whichever engine.
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
    """Gradients are summed over the processes in buckets of about this size, while backward goes on."""
    static_graph: bool = False
    """Tell DistributedDataParallel that every pass is like the first, so that it need not look for what is left out."""
    cuda_graphs: bool = False
    """Launch the passes of several blocks as one CUDA graph instead of kernel by kernel: for small batches on a GPU.
    Every start compares passes with and without, and ends with an error where they differ."""


class ApexConfig(Section):
    """The native engine with what NVIDIA Apex has for this network."""

    fused_sgd: bool = True
    """apex.optimizers.FusedSGD instead of PyTorch's SGD."""
    nhwc_batch_norm: bool = False
    """apex.contrib.groupbn's batch norm, fused with the ReLU behind it, where there is one; float16 and channels_last
    only. It leaks host memory, see `pipeline.engines.nhwc_batch_norm`."""


class DeepSpeedConfig(Section):
    """DeepSpeed's engine and its ZeRO optimizer."""

    zero_stage: Literal[0, 1, 2] = 1
    """What the processes share among them instead of each holding it whole. 0: nothing. 1: momentum and master weights.
    2: the reduced gradients too."""


ENGINES: dict[EngineName, type[Section]] = {"native": NativeConfig, "apex": ApexConfig, "deepspeed": DeepSpeedConfig}


def ignored_sections(engine: EngineName, sections: Mapping[str, Section | None]) -> list[str]:
    """A problem for each option that was given for an engine which is not the one chosen."""
    problems = []
    for name, section in sections.items():
        if section is None or name == engine:
            continue
        for place in [f"{name}.{key}" for key in sorted(section.model_fields_set)] or [name]:
            problems.append(f"{place}: engine is '{engine}', which ignores it; set engine: {name} or leave it out")
    return problems


def native_problems(options: NativeConfig, execution: ExecutionConfig) -> list[str]:
    """A problem for each setting that the options cannot work with."""
    if not (options.cuda_graphs and execution.sync_bn):
        return []
    return [
        "native.cuda_graphs: no graph can hold what execution.sync_bn sends between processes in every batch norm; set "
        "one of them to false (given true for both)"
    ]


def apex_problems(options: ApexConfig, execution: ExecutionConfig) -> list[str]:
    """A problem for each setting that what was chosen of Apex cannot work with."""
    if not options.nhwc_batch_norm:
        if options.fused_sgd:
            return []
        return ["apex.fused_sgd: without it and apex.nhwc_batch_norm nothing of Apex is used; set engine: native"]
    problems = []
    if execution.precision != "float16":
        problems.append(
            f"apex.nhwc_batch_norm: its kernels take float16 alone; set execution.precision: float16 "
            f"(given {execution.precision})"
        )
    if not execution.channels_last:
        problems.append("apex.nhwc_batch_norm: needs execution.channels_last: true (given false)")
    if execution.compile:
        problems.append(
            "apex.nhwc_batch_norm: torch.compile cannot trace its kernels; set execution.compile: false (given true)"
        )
    if execution.sync_bn:
        problems.append(
            "apex.nhwc_batch_norm: normalises over each process's own images; set execution.sync_bn: false (given true)"
        )
    return problems


def describe_engine(engine: EngineName, options: Section) -> str:
    """The engine and those of its options that are not at their defaults: `deepspeed (zero_stage 2)`."""
    defaults = type(options)()
    changed = [f"{name} {value}" for name, value in options if value != getattr(defaults, name)]
    return f"{engine} ({', '.join(changed)})" if changed else engine
