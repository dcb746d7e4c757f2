"""The network's tensors among all that a checkpoint holds: inside wrappers, behind prefixes, beside averaged copies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.ground.errors import UserError
from pipeline.interop.layout import ANCHORS

COMPILED = "_orig_mod."
"""What torch.compile puts into names, before a block's as well as before all."""
_PREFIXES = ("module.", "model.", "net.", "backbone.")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
"""Usual names of the network's part of a training checkpoint."""
_DEEPEST = 4
_AVERAGED = "n_averaged"
"""PyTorch's AveragedModel counts in it; its network is behind `module.`."""
_HEAD = "head.fc."
"""mmpretrain's classifier, beside its `backbone.`."""
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Entry:
    """Tensors that have the names of a known layout when a prefix is taken off."""

    label: str
    """What to call it: the keys that lead there, with a slash between them, and the prefix behind a colon."""
    prefix: str
    tensors: Mapping[str, Any]
    left: tuple[str, ...]
    """Names beside it."""

    def is_same(self, other: Entry) -> bool:
        """Return whether it holds the same numbers under the same names."""
        if self.tensors.keys() != other.tensors.keys():
            return False
        pairs = ((tensor, other.tensors[name]) for name, tensor in self.tensors.items())
        return all(
            one is two or (is_plain_tensor(one) and is_plain_tensor(two) and torch.equal(one, two))
            for one, two in pairs
        )


def choose_entry(path: Path, content: object, wanted: str | None, note: Callable[[str], None]) -> Mapping[str, Any]:
    """Return the names and tensors of the network in `content`; reports names taken off or left out to `note`.

    Raises UserError naming all that it could be if there are several and `wanted` names none of them.
    """
    entries: list[Entry] = []
    for entry in _entries(content, ()):
        if not any(entry.is_same(other) for other in entries):
            entries.append(entry)
    labels = ", ".join(repr(entry.label) for entry in entries)
    if wanted is not None:
        entries = [entry for entry in entries if entry.label == wanted]
        if not entries:
            raise UserError(f"{path}: --entry: must be one of {labels or 'no entries'} (given {wanted!r})")
    if not entries:
        return _unwrapped(path, content)
    if len(entries) > 1:
        raise UserError(
            f"{path}: holds {len(entries)} networks that differ: {labels}; say which one with --entry, as in "
            f"--entry {entries[-1].label!r}"
        )
    (entry,) = entries
    if entry.label:
        note(f"taken from {entry.label!r}")
    if entry.left:
        others = ", ".join(entry.left[:_SHOWN]) + (" ..." if len(entry.left) > _SHOWN else "")
        note(f"left out, since they are not the network's: {others}")
    return entry.tensors


def _entries(content: object, keys: tuple[str, ...]) -> Iterator[Entry]:
    if not isinstance(content, Mapping) or len(keys) > _DEEPEST:
        return
    named = {name.replace(COMPILED, ""): value for name, value in content.items() if isinstance(name, str)}
    places = [name.removesuffix(anchor) for name in named for anchor in ANCHORS if name.endswith(anchor)]
    prefixes = list(dict.fromkeys(place for place in places if not place or place.endswith(".")))
    for prefix in prefixes:
        others = [other for other in prefixes if not prefix.startswith(other)]
        own = [name for name in named if name.startswith(prefix) and not name.startswith(tuple(others))]
        tensors = {name.removeprefix(prefix): named[name] for name in own}
        left = [name for name in named if not name.startswith((prefix, *others))]
        if prefix.endswith("backbone."):
            head = prefix.removesuffix("backbone.") + _HEAD
            tensors |= {f"fc.{name.removeprefix(head)}": named[name] for name in left if name.startswith(head)}
            left = [name for name in left if not name.startswith(head)]
        place = "/".join(keys)
        yield Entry(f"{place}:{prefix}" if prefix else place, prefix, tensors, tuple(left))
    if not prefixes:
        for key, value in content.items():
            yield from _entries(value, (*keys, str(key)))


def _unwrapped(path: Path, content: object) -> Mapping[str, Any]:
    """Return the most likely network of no known layout, to be named by its shapes."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: must be a state dict, names with tensors (found {shown(content)})")
    names = {name: str(name).replace(COMPILED, "") for name in content if name != _AVERAGED}
    while prefix := next((one for one in _PREFIXES if names and all(n.startswith(one) for n in names.values())), None):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    return {short if isinstance(name, str) else name: content[name] for name, short in names.items()}


def is_plain_tensor(value: object) -> bool:
    """Return whether a value is a tensor whose elements lie in memory one by one."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def shown(value: object) -> str:
    """Describe what was found in a place for tensors."""
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(repr, list(value)[:5]))}" if value else "an empty dict"
    return f"a {type(value).__name__}"
