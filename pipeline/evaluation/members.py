"""The members of an ensemble: score files, found by the paths that a person would give, and checked to fit together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.reader import RUN_CONFIG, read_run_config
from pipeline.data.index import Dataset, ImageIndex, read_dataset
from pipeline.evaluation.scores import Scores, digest_classes, digest_images, image_names, read_scores
from pipeline.ground.errors import UserError
from pipeline.running.stage import StageSpec, place_stages
from pipeline.store.manifest import read_manifest

FUSION = "fused.json"


@dataclasses.dataclass(frozen=True)
class Member:
    """One member."""

    name: str
    """Of its crop plan, with its run or folder before it where that alone would name several."""
    scores: Scores


def find_scores(path: Path, specs: Sequence[StageSpec]) -> list[Path]:
    """The score files that a path stands for: a file, a folder with such files, or a run that is evaluated.

    UserError where it stands for none.
    """
    if path.suffix == ".npy":
        return [path]
    if (path / RUN_CONFIG).exists():
        path = evaluate_directory(path, specs)
    if not path.is_dir():
        what = "a file that does not end in .npy" if path.exists() else "nothing there"
        raise UserError(f"{path}: must be a score file (.npy), a folder of score files or a run ({what})")
    found = sorted(path.glob("scores-*.npy"))
    if not found:
        raise UserError(f"{path}: no score files (scores-*.npy) in this folder")
    return found


def evaluate_directory(run: Path, specs: Sequence[StageSpec]) -> Path:
    """Where the finished evaluation of a run is. UserError where there is none."""
    stage = place_stages(read_run_config(run), run, specs)["evaluate"]
    if not stage.is_done:
        raise UserError(f"{run}: this run is not evaluated yet; to do that: python -m stages evaluate --run {run}")
    return stage.directory


def fusion_file(path: Path) -> Path:
    """The figures of the fusion at `path`, which is its folder or the file itself."""
    return path / FUSION if path.is_dir() else path


def read_members(paths: Sequence[Path]) -> list[Member]:
    """The scores at `paths`; UserError where two of them are not of the same images and classes in the same order."""
    everything = [read_scores(path) for path in paths]
    require_alike(everything)
    plans = [scores.description.plan for scores in everything]
    names = list(plans)
    if len(set(names)) < len(names):
        names = [f"{_home(scores.path)}:{plan}" for scores, plan in zip(everything, plans, strict=True)]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, start=1)]
    return [Member(name, scores) for name, scores in zip(names, everything, strict=True)]


def require_alike(everything: Sequence[Scores]) -> None:
    """UserError with the two files, and what differs, unless all scores can be fused row by row; also for a double."""
    first = everything[0]
    for number, other in enumerate(everything[1:], start=1):
        ours, theirs = first.description, other.description
        problem = None
        if ours.split != theirs.split:
            problem = f"scores of different splits ({ours.split} and {theirs.split})"
        elif ours.images != theirs.images:
            problem = f"scores of different images ({ours.images:,} and {theirs.images:,})"
        elif ours.classes_sha256 != theirs.classes_sha256:
            problem = "scores of different classes, or of the same in another order"
        elif ours.images_sha256 != theirs.images_sha256:
            problem = "scores of different images, or of the same in another order"
        if problem:
            raise UserError(f"{first.path} and {other.path}: {problem} cannot be fused")
        for earlier in everything[:number]:
            if earlier.description.sha256 == theirs.sha256:
                raise UserError(f"{earlier.path} and {other.path}: the same scores twice; name each member once")


def find_dataset(members: Sequence[Member], given: Path | None) -> tuple[Dataset, Path]:
    """The dataset whose images the members scored, and the prepare directory it is from.

    That is `given` (a run or a prepare stage's directory), or else the one that stands beside one of the score files.
    UserError where there is none, or it has other images.
    """
    candidates = [given] if given is not None else [_prepared_beside(member.scores.path.parent) for member in members]
    for candidate in candidates:
        if candidate is None:
            continue
        for directory in _prepare_directories(candidate):
            dataset = read_dataset(directory)
            if fits(dataset, members[0].scores):
                return dataset, directory
    place = given if given is not None else members[0].scores.path
    raise UserError(
        f"{place}: no index of the images that {members[0].scores.path} was made from, so that no label is known; "
        "give the run whose prepare stage has it (--images RUN)"
    )


def fits(dataset: Dataset, scores: Scores) -> bool:
    """Whether the scores are of this dataset's images and classes in this order."""
    about = scores.description
    index = split_index(dataset, about.split)
    if index is None or digest_classes(dataset.classes) != about.classes_sha256:
        return False
    return digest_images(image_names(index)) == about.images_sha256


def split_index(dataset: Dataset, split: str) -> ImageIndex | None:
    """The index of the validation or of the test images."""
    return dataset.val if split == "val" else dataset.test


def _prepared_beside(directory: Path) -> Path | None:
    """The prepare directory that the evaluation, or the fusion, in `directory` was made from."""
    manifest = read_manifest(directory)
    if manifest is not None and "prepare" in manifest.inputs:
        return directory.absolute().parent / f"prepare-{manifest.inputs['prepare']}"
    fusion = directory / FUSION
    return Path(json.loads(fusion.read_text())["prepare"]) if fusion.exists() else None


def _prepare_directories(place: Path) -> list[Path]:
    there = [place] if (place / "dataset.json").exists() else sorted(place.glob("prepare-*"))
    return [directory for directory in there if (directory / "dataset.json").exists()]


def _home(path: Path) -> str:
    """The run, or else the folder, that a score file is in."""
    folder = path.absolute().parent
    return folder.parent.name if (folder.parent / RUN_CONFIG).exists() else folder.name
