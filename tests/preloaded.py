"""Imported once by the fork server of `tests.processes`: what stages would otherwise import in every attempt."""

import importlib

for module in (
    "nvidia.dali.fn",
    "torch._dynamo",
    "torch.distributed",
    "stages.build",
    "stages.evaluate",
    "stages.freeze_bn",
    "stages.prepare",
    "stages.report",
    "pipeline.running.runner",
    "stages.train",
):
    importlib.import_module(module)
