"""Fuse score files: the scores of an ensemble, its errors, and what each member is worth.

Fusing needs no forward pass and no labels. With labels there are errors with bootstrap intervals, and weights may be
chosen; without (the test images) there are scores and the contest's files.

Letters in shapes: N images, K classes, M members.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Averaging
from pipeline.config.fusion import FuseConfig
from pipeline.config.identity import key_of
from pipeline.data.ilsvrc import Ilsvrc
from pipeline.data.index import ImageIndex
from pipeline.evaluation.bootstrap import Bootstrap, Interval
from pipeline.evaluation.margins import DEEPEST_RANK, UndecidedClasses, blocks, find_undecided
from pipeline.evaluation.members import FUSION, Member
from pipeline.evaluation.metrics import is_telling, rank_scores, restricted_top1
from pipeline.evaluation.scores import ScoreDescription, ScoreFile
from pipeline.evaluation.submission import contest_order, write_submissions
from pipeline.evaluation.weighting import Weighting, chosen_weights, given_weights
from pipeline.ground.errors import UserError
from pipeline.store.file import write_json

FUSED_PLAN = "fused"
_ROWS_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class Fusion:
    """The result of a fusion."""

    figures: dict[str, Any]
    """The content of fused.json."""
    outputs: list[str]
    """Names of the files written."""


def fuse(
    members: Sequence[Member],
    index: ImageIndex,
    prepared: Path,
    config: FuseConfig,
    seed: int,
    directory: Path,
    table: Ilsvrc,
) -> Fusion:
    """Fuse members that agree with each other and with the index in `prepared`, and write all files to `directory`.

    Writes scores-fused.npy and its seal, which can be a member again; the contest's files if the images are all of the
    contest's; and fused.json, last.
    """
    about = members[0].scores.description
    arrays = [member.scores.array for member in members]
    if about.split == "test" and config.selection != "none":
        raise UserError("fuse.selection: test images have no labels to choose on; give the weights of a fusion")
    undecided = None if about.split == "test" else find_undecided(arrays, index.labels, config.averaging)
    selection = config.selection
    if len(members) == 1:
        selection = "none"  # there is nothing to choose
    if undecided is not None and selection == "greedy":
        weighting = chosen_weights(undecided, index.labels, seed)
    else:
        weighting = given_weights(config, members)
    file = ScoreFile(directory, FUSED_PLAN)
    description = _describe(members, weighting, config.averaging)
    fused = file.write(description, fused_blocks(arrays, weighting, config.averaging))
    order = contest_order(index, table.num_val if about.split == "val" else table.num_test)
    submissions: list[str] = []
    if order.positions is not None:
        submissions = write_submissions(directory, fused.array, order.positions, index)
    figures: dict[str, Any] = {
        "split": about.split,
        "images": about.images,
        "images_sha256": about.images_sha256,
        "classes": about.classes,
        "averaging": config.averaging,
        "selection": selection,
        "index": str(prepared.absolute()),
        "index_sha256": index.digest,
        "scores": {"file": file.path.name, "sha256": fused.sha256},
        "contest_files": submissions,
        "contest_files_note": order.missing,
        "disagreement_percent": disagreement(arrays),
        "members": [_identity(member, weight) for member, weight in zip(members, weighting.mean, strict=True)],
    }
    if undecided is not None:
        if restricted := restricted_top1(fused.array, index.labels):
            figures["restricted"] = restricted
        ranks = rank_scores(fused.array, index.labels).ranks
        is_wrong = {k: ranks >= k for k in (1, DEEPEST_RANK) if is_telling(k, about.classes)}
        judge = _Judge(undecided, weighting, Bootstrap(seed, config.bootstrap_samples), is_wrong)
        figures.update(judge.ensemble())
        for number, fields in enumerate(figures["members"]):
            fields.update(judge.member(number))
    write_json(directory / FUSION, figures)
    return Fusion(figures, [FUSION, *file.names, *submissions])


def fused_blocks(
    members: Sequence[npt.NDArray[np.float16]], weighting: Weighting, averaging: Averaging
) -> Iterator[npt.NDArray[np.float16]]:
    """Yield the log-probabilities of the weighted mean of probabilities or logits, some rows at a time."""
    smallest = np.finfo(np.float64).tiny
    for rows in blocks(len(members[0]), _ROWS_AT_ONCE):
        weights_nM = weighting.by_half[weighting.half[rows]]
        total_nK = np.zeros((len(weights_nM), members[0].shape[1]))
        for member, weights_n in zip(members, weights_nM.T, strict=True):
            if weights_n.any():
                scores = np.asarray(member[rows], np.float64)
                total_nK += weights_n[:, None] * (np.exp(scores) if averaging == "probabilities" else scores)
        if averaging == "probabilities":
            total_nK = np.log(np.maximum(total_nK, smallest))
        else:
            highest = total_nK.max(axis=1, keepdims=True)
            total_nK -= highest + np.log(np.exp(total_nK - highest).sum(axis=1, keepdims=True))
        yield total_nK.astype(np.float16)


def disagreement(members: Sequence[npt.NDArray[np.float16]]) -> list[list[float]]:
    """Return (M, M): percent of the images for which two members' first predictions differ."""
    predictions = np.empty((len(members), len(members[0])), np.int64)
    for rows in blocks(len(members[0]), _ROWS_AT_ONCE):
        for number, member in enumerate(members):
            predictions[number, rows] = np.asarray(member[rows], np.float32).argmax(axis=1)
    return [[100 * float((one != other).mean()) for other in predictions] for one in predictions]


class _Judge:
    """Errors of an ensemble and of its members on labelled images."""

    def __init__(
        self,
        undecided: UndecidedClasses,
        weighting: Weighting,
        bootstrap: Bootstrap,
        is_wrong: dict[int, npt.NDArray[np.bool_]],
    ) -> None:
        """`is_wrong[k]` marks the images whose class is not among the first k predictions of the fused score file."""
        self._undecided = undecided
        self._weighting = weighting
        self._bootstrap = bootstrap
        self._is_wrong = is_wrong
        num_members = undecided.margins.shape[1]
        self._alone = [undecided.ranks(np.eye(num_members)[number]) for number in range(num_members)]

    def ensemble(self) -> dict[str, Any]:
        """Return the errors, for each the member with the fewest and the gain over it, and each half's errors if
        weights were chosen."""
        figures: dict[str, Any] = {"errors": {}, "best_member": {}, "gain_over_best_member": {}}
        for k, is_wrong in self._is_wrong.items():
            # Where two have as many, the one with fewer of the others.
            errors = [[int((ranks >= top).sum()) for top in (k, *self._is_wrong)] for ranks in self._alone]
            best = figures["best_member"][f"top{k}"] = errors.index(min(errors))
            figures["errors"][f"top{k}"] = _fields(self._bootstrap.error(is_wrong, f"ensemble top{k}"))
            gain = self._bootstrap.difference(is_wrong, self._alone[best] >= k, f"gain over best top{k}")
            figures["gain_over_best_member"][f"top{k}"] = _fields(gain)
        halves = range(len(self._weighting.by_half))
        figures["halves"] = [self._half(number) for number in halves] if len(halves) > 1 else None
        return figures

    def member(self, number: int) -> dict[str, Any]:
        """Return the errors of one member alone, and by how much the ensemble's are higher without it."""
        left = self._weighting.without(number)
        fused = self._undecided.ranks(self._weighting.by_image)
        ranks = None if left is None else self._undecided.ranks(left.by_image)
        alone, gain = {}, {}
        for k in self._is_wrong:
            error = self._bootstrap.error(self._alone[number] >= k, f"member {number} top{k}")
            alone[f"top{k}"] = _fields(error)
            if ranks is not None:
                difference = self._bootstrap.difference(fused >= k, ranks >= k, f"gain of member {number} top{k}")
                gain[f"top{k}"] = _fields(difference)
        return {"alone": alone, "gain": gain or None}

    def _half(self, number: int) -> dict[str, Any]:
        chosen = self._weighting.half == number
        errors = {f"top{k}": 100 * float(is_wrong[chosen].mean()) for k, is_wrong in self._is_wrong.items()}
        return {
            "images": int(chosen.sum()),
            "weights": [round(float(weight), 6) for weight in self._weighting.by_half[number]],
            "error_percent": errors,
        }


def _describe(members: Sequence[Member], weighting: Weighting, averaging: Averaging) -> ScoreDescription:
    abouts = [member.scores.description for member in members]
    made_from = {
        "fusion": [
            {"scores_sha256": member.scores.sha256, "weights": [round(float(w), 9) for w in weights]}
            for member, weights in zip(members, weighting.by_half.T, strict=True)
        ],
        "halves_sha256": hashlib.sha256(weighting.half.astype(np.uint8).tobytes()).hexdigest(),
        "averaging": averaging,
    }
    return dataclasses.replace(
        abouts[0],
        plan=FUSED_PLAN,
        averaging=averaging,
        weights=" + ".join(dict.fromkeys(about.weights for about in abouts)),
        weights_sha256=hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest(),
        key=key_of("fusion", made_from),
        seconds=sum(about.seconds for about in abouts),
    )


def _identity(member: Member, weight: float) -> dict[str, Any]:
    about = member.scores.description
    return {
        "name": member.name,
        "weight": round(float(weight), 6),
        "scores": str(member.scores.path),
        "scores_sha256": member.scores.sha256,
        "plan": about.plan,
        "weights": about.weights,
        "weights_sha256": about.weights_sha256,
        "seconds": about.seconds,
    }


def _fields(interval: Interval) -> dict[str, float]:
    return {name: round(value, 6) for name, value in dataclasses.asdict(interval).items()}
