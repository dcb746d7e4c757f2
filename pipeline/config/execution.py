"""Precision and memory layout of the arithmetic."""

from __future__ import annotations

from typing import Literal

from pipeline.config.section import Section


class ExecutionConfig(Section):
    """Precision and memory layout of the arithmetic. Part of the stages' keys: it can change the last bits of a
    result."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type; float16 adds a gradient scaler."""
    channels_last: bool = True
    """Whether images lie in memory with their channels innermost, which GPUs prefer."""
    compile: bool = False
    """Whether torch.compile makes the network faster, after minutes of compiling."""
    sync_bn: bool = False
    """Batch norms in training see the micro-batches of all processes at once, not each process's own as in 2017."""
    gradient_compression: Literal["none", "bfloat16"] = "none"
    """Type of gradients in transit between processes; bfloat16 halves the traffic and rounds each gradient."""
