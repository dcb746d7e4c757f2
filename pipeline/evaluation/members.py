"""The members of an ensemble: score files, found by the user's paths, and checked to be compatible."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.config.reader import RUN_CONFIG
from pipeline.data.index import INDEX, ImageIndex, read_index
from pipeline.evaluation.network_classes import mapped_index
from pipeline.evaluation.scores import Scores, digest_classes, digest_images, read_scores
from pipeline.ground.errors import UserError
from pipeline.store.seal import BrokenSeal, read_seal, verify_files

FUSION = "fused.json"


@dataclasses.dataclass(frozen=True)
class Member:
    """One member of an ensemble."""

    name: str
    """Name of its crop plan, after that of its run or folder if the plan alone would name several."""
    scores: Scores


def find_scores(path: Path, evaluation_of: Callable[[Path], Path]) -> list[Path]:
    """Return the score files that a path stands for: a file, a folder of such files, or an evaluated run.

    `evaluation_of` returns the directory of a run's finished evaluation. Raises UserError if there are none.
    """
    if path.suffix == ".npy":
        return [path]
    if (path / RUN_CONFIG).exists():
        path = evaluation_of(path)
    if not path.is_dir():
        what = "a file that does not end in .npy" if path.exists() else "nothing there"
        raise UserError(f"{path}: must be a score file (.npy), a folder of score files or a run ({what})")
    found = sorted(path.glob("scores-*.npy"))
    if not found:
        raise UserError(f"{path}: no score files (scores-*.npy) in this folder")
    return found


def fusion_file(path: Path) -> Path:
    """Return the figures of the fusion at `path`, which is its folder or the file itself."""
    return path / FUSION if path.is_dir() else path


def read_members(paths: Sequence[Path]) -> list[Member]:
    """Open the scores at `paths`.

    Raises UserError if one is unusable, or if two are not of the same images and classes in the same order.
    """
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
    """Raise UserError naming two files that cannot be fused row by row, and why; also if a file is given twice."""
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
            if earlier.sha256 == other.sha256:
                raise UserError(f"{earlier.path} and {other.path}: the same scores twice; name each member once")


def find_index(members: Sequence[Member], given: Path | None) -> tuple[ImageIndex, Path]:
    """Return an index of the images that the members scored, and its directory.

    Looks in `given` (a run, or a directory with an index), or else for the index of a member: beside the member's
    directory, or where a fusion found it. Raises UserError if there is none undamaged.
    """
    about = members[0].scores.description
    places = [given] if given is not None else [place for member in members for place in _places_of(member)]
    problems: dict[str, None] = {}
    for place in places:
        for directory in (place, *sorted(place.glob("prepare-*"))):
            try:
                index = _read_index(directory, about.split)
            except BrokenSeal as problem:
                problems[str(problem)] = None
                continue
            if index is None or (given is None and index.digest != about.index_sha256):
                continue
            index = mapped_index(index, members[0].scores.path.parent)
            images_and_classes = digest_images(index.names), digest_classes(index.classes)
            if images_and_classes == (about.images_sha256, about.classes_sha256):
                return index, directory
    path = members[0].scores.path
    problems[
        f"{given or path}: no index of the images that {path} was made from, so that no label is known; give the run "
        "whose prepare stage has it (--images RUN)"
    ] = None
    raise UserError("\n".join(problems))


def _places_of(member: Member) -> Iterator[Path]:
    folder = member.scores.path.absolute().parent
    yield folder.parent
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no fusion, or a damaged one
        yield Path(json.loads((folder / FUSION).read_text())["index"])


def _read_index(directory: Path, split: str) -> ImageIndex | None:
    seal = read_seal(directory, "stage")
    if seal is None or INDEX not in seal.files:
        return None
    verify_files(directory, seal)
    index = read_index(directory)
    return index if index.split == split else None


def _home(path: Path) -> str:
    """Return the name of the run, or else of the folder, of a score file."""
    folder = path.absolute().parent
    return folder.parent.name if (folder.parent / RUN_CONFIG).exists() else folder.name
