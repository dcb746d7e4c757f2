"""What a stage is, and where it attempts: a directory whose name says everything its result depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.ground.errors import UserError
from pipeline.store.file import sha256_of
from pipeline.store.manifest import MANIFEST

_KEY_LENGTH = 10


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """The declaration of a stage; its code is the module `stages.<name>`."""

    name: str
    summary: str
    version: int
    """Raised whenever the code changes what the stage makes from the same config and inputs."""
    inputs: Callable[[Config], tuple[str, ...]]
    """Names of the stages it reads, in the order of the pipeline."""
    config_keys: tuple[str, ...]
    """Dotted names of the config's parts that can change its result; `seed` or `train` or `freeze_bn.last_epochs`."""
    files: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """Paths that the config names and whose *content* changes the result: a weight file, a checkpoint's manifest."""
    distributed: bool = False
    """Whether it runs as several processes."""
    is_active: Callable[[Config], bool] = lambda config: True


@dataclasses.dataclass(frozen=True)
class PlacedStage:
    """A stage of one run: its key and its directory are known before anything has run."""

    spec: StageSpec
    key: str
    directory: Path
    inputs: tuple[str, ...]
    input_keys: Mapping[str, str]
    config_part: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.spec.name

    @property
    def is_done(self) -> bool:
        """Whether the manifest exists."""
        return (self.directory / MANIFEST).exists()

    @property
    def is_started(self) -> bool:
        """Whether there is unfinished work of this very stage."""
        return self.directory.exists() and not self.is_done


def place_stages(config: Config, run: Path, specs: Sequence[StageSpec]) -> dict[str, PlacedStage]:
    """Key and directory of every active stage, by name, in pipeline order.

    The key is a hash of the stage's name and version, the config's parts that can change its result, the content of
    the files the config names, and the keys of its inputs. So a directory never holds another stage's or config's
    work, and one without a manifest is that stage's own unfinished work.
    """
    fields = config.model_dump(mode="json")
    placed: dict[str, PlacedStage] = {}
    for spec in specs:
        if not spec.is_active(config):
            continue
        inputs = spec.inputs(config)
        part = {name: _pick(fields, name) for name in spec.config_keys}
        input_keys = {name: placed[name].key for name in inputs}
        parts = {
            "stage": spec.name,
            "version": spec.version,
            "config": part,
            "files": [_content(path) for path in spec.files(config)],
            "inputs": input_keys,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_KEY_LENGTH]
        placed[spec.name] = PlacedStage(spec, key, run / f"{spec.name}-{key}", inputs, input_keys, part)
    return placed


def _pick(fields: Mapping[str, Any], dotted: str) -> Any:
    value: Any = fields
    for name in dotted.split("."):
        value = value[name]
    return value


def _content(path: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"{path}: the config names this file, and it is not there")
    return sha256_of(Path(path))
