"""The weights of an ensemble's members: equal, given, or chosen on half of the images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config.fusion import FuseConfig
from pipeline.evaluation.margins import Floats, Integers, UndecidedClasses
from pipeline.evaluation.members import FUSION, Member, fusion_file
from pipeline.evaluation.selection import select_greedily, stratified_halves
from pipeline.ground.errors import UserError


@dataclasses.dataclass(frozen=True)
class Weighting:
    """Weights of M members that sum to 1: one row for all images, or one for each half of them."""

    by_half: Floats
    """(H, M): row h is for the images of half h, and if H is 2, it was chosen on the other half."""
    half: npt.NDArray[np.int64]
    """(N,) the half of each image."""

    @property
    def mean(self) -> Floats:
        """Return (M,): the weights for images that none of them was chosen on."""
        return np.asarray(self.by_half.mean(axis=0))

    @property
    def by_image(self) -> Floats:
        """Return the weights by image, (N, M)."""
        return self.by_half[self.half]

    def without(self, member: int) -> Weighting | None:
        """Return the same without one member, or None if then none is left."""
        left = self.by_half.copy()
        left[:, member] = 0
        sums = left.sum(axis=1, keepdims=True)
        return None if (sums == 0).any() else Weighting(left / sums, self.half)


def given_weights(config: FuseConfig, members: Sequence[Member]) -> Weighting:
    """Return equal weights, or those of the config. Raises UserError if these do not suit the members."""
    num_members, images = len(members), members[0].scores.description.images
    weights = np.ones(num_members)
    if config.weights_from is not None:
        weights = _read_weights(Path(config.weights_from), members)
    elif config.member_weights is not None:
        if len(config.member_weights) != num_members:
            names = ", ".join(member.name for member in members)
            raise UserError(
                f"fuse.member_weights: must be {num_members} numbers, one for each member: {names} (given "
                f"{len(config.member_weights)})"
            )
        weights = np.array(config.member_weights)
    return Weighting(weights[None] / weights.sum(), np.zeros(images, np.int64))


def chosen_weights(undecided: UndecidedClasses, labels: Integers, seed: int) -> Weighting:
    """Select greedily on each half of the images, for the images of the other."""
    is_second = stratified_halves(labels, seed)
    if is_second.sum() in (0, len(labels)):
        raise UserError(
            "fuse.selection: greedy needs two images or more, to choose and to judge on; set fuse.selection=none "
            f"(given {len(labels)})"
        )
    by_half = np.stack([select_greedily(undecided.of(is_second)), select_greedily(undecided.of(~is_second))])
    return Weighting(by_half, is_second.astype(np.int64))


def _read_weights(path: Path, members: Sequence[Member]) -> Floats:
    """Return the weights of a fusion for these members, which must have the same weights and crop plans as its own."""
    file = fusion_file(path)
    try:
        fusion = json.loads(file.read_text())
        was_chosen_here = (
            fusion["selection"] == "greedy" and fusion["images_sha256"] == members[0].scores.description.images_sha256
        )
        given = {
            (member["plan"], member["weights_sha256"]): (member["name"], float(member["weight"]))
            for member in fusion["members"]
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"fuse.weights_from: {file} is no fusion's {FUSION} ({type(error).__name__}: {error})"
        ) from error
    if was_chosen_here:
        raise UserError(
            f"fuse.weights_from: the weights in {file} were chosen on these very images and cannot be judged on "
            "them; its own errors are honest, each half's under the weights chosen on the other"
        )
    weights = np.zeros(len(members))
    problems = []
    for number, member in enumerate(members):
        about = member.scores.description
        found = given.pop((about.plan, about.weights_sha256), None)
        if found is None:
            problems.append(f"it has no weight for {member.scores.path} (another network or crop plan, or named twice)")
        else:
            weights[number] = found[1]
    problems += [f"its member {name} is missing here" for name, weight in given.values() if weight > 0]
    if not problems and not weights.any():
        problems.append("all of its weights are 0")
    if problems:
        raise UserError("\n".join(f"fuse.weights_from: {file}: {problem}" for problem in problems))
    return weights
