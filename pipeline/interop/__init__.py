"""Weight files of other software, imported and exported: one module for each layout of a file.

`python -m pipeline.interop` converts; people call it as `launch weights`. This package, `command`, `container` and
`known` do not import torch.
"""
