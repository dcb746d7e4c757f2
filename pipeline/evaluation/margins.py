"""Margins of the classes that can decide an image's error in an ensemble, for any weights of its members.

A weighted mean ranks class c above the true class t if the weighted margins score(c) - score(t) of the members add up
to more than 0. If a class is below the true one in every member, no weights lift it; if it is above in every member,
none pull it down. That leaves the classes that the members disagree about, a few an image for trained networks, and
they are kept as a table. So the errors of an ensemble under any weights are exact, and cost a product of this table
with the weights instead of another pass over all scores.

Letters in shapes: N images, K classes, M members, P pairs of an image and an undecided class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.crop_plan import Averaging
from pipeline.ground.errors import UserError

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DEEPEST_RANK = 5
"""Ranks are counted up to here: whether the true class is sixth or last makes no difference to the contest."""
_FAR_AHEAD = 1e300
"""Larger than any margin of numbers, and finite in weighted sums."""
_ROWS_AT_ONCE = 256
_TABLE_BYTES = 512 * 2**20
"""Limit for the margins, which take twice as much while they are joined: for 10 members and 50,000 images 134 undecided
classes an image. Trained networks leave a few."""


@dataclasses.dataclass(frozen=True)
class UndecidedClasses:
    """The undecided classes of some members, from which the errors of all their ensembles follow."""

    certain: Integers
    """(N,) classes ranked above the true one by every member, at most DEEPEST_RANK."""
    images: Integers
    """(P,) the image of each undecided class, rising."""
    is_first_on_tie: npt.NDArray[np.bool_]
    """(P,) whether the undecided class's label is lower than the true one."""
    margins: Floats
    """(P, M) score of the class less that of the true class."""

    def ranks(self, weights: Floats) -> Integers:
        """Return (N,): classes ranked above the true one by the ensemble, at most DEEPEST_RANK.

        `weights` are (M,), or (N, M) for weights that differ from image to image; none negative, in any scale.
        """
        if weights.ndim == 1:
            return self.ranks_of(self.margins @ weights)
        return self.ranks_of(np.einsum("pm,pm->p", self.margins, weights[self.images]))

    def ranks_of(self, margins_P: Floats) -> Integers:
        """Return the same from summed margins."""
        is_below = (margins_P < 0) | ((margins_P == 0) & ~self.is_first_on_tie)
        above = np.bincount(self.images[~is_below], minlength=len(self.certain))
        ranks: Integers = np.minimum(self.certain + above, DEEPEST_RANK)
        return ranks

    def of(self, chosen: npt.NDArray[np.bool_]) -> UndecidedClasses:
        """Return the same for the images of a mask."""
        kept = chosen[self.images]
        places = np.cumsum(chosen) - 1
        return UndecidedClasses(
            self.certain[chosen], places[self.images[kept]], self.is_first_on_tie[kept], self.margins[kept]
        )


def find_undecided(
    members: Sequence[npt.NDArray[np.float16]], labels: Integers, averaging: Averaging
) -> UndecidedClasses:
    """Return the undecided classes of (N, K) log-probabilities, of which a few hundred rows are read at once.

    A NaN ranks above every other score, as in `metrics`. Raises UserError if the table would exceed its memory.
    """
    certain = np.zeros(len(labels), np.int64)
    images, ties, margins = [], [], []
    num_pairs, most_pairs = 0, _TABLE_BYTES // (8 * len(members))
    classes_K = np.arange(members[0].shape[1])
    for rows in blocks(len(labels), _ROWS_AT_ONCE):
        truth_n = labels[rows]
        margin_nKM = np.stack([_margins(member[rows], truth_n, averaging) for member in members], axis=2)
        is_first_nK = classes_K < truth_n[:, None]
        is_below_nKM = (margin_nKM < 0) | ((margin_nKM == 0) & ~is_first_nK[:, :, None])
        below_nK = is_below_nKM.sum(2)
        # The true class has margin 0 to itself and is not before itself: it counts as below in every member.
        certain_n = (below_nK == 0).sum(1)
        certain[rows] = np.minimum(certain_n, DEEPEST_RANK)
        undecided_nK = (below_nK > 0) & (below_nK < len(members)) & (certain_n < DEEPEST_RANK)[:, None]
        image, column = np.nonzero(undecided_nK)
        num_pairs += len(image)
        if num_pairs > most_pairs:
            raise UserError(
                f"these {len(members)} members disagree about too much for their table of {_TABLE_BYTES // 2**20} MB: "
                f"about {num_pairs // rows.stop:,} classes an image, as networks do that have learnt nothing; leave "
                "such members out"
            )
        images.append(image + rows.start)
        ties.append(is_first_nK[image, column])
        margins.append(margin_nKM[image, column])
    return UndecidedClasses(certain, np.concatenate(images), np.concatenate(ties), np.concatenate(margins))


def blocks(count: int, size: int) -> Iterator[slice]:
    """Yield 0 to `count` in slices of `size`, the last one shorter if need be."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _margins(block: npt.NDArray[np.float16], labels: Integers, averaging: Averaging) -> Floats:
    # In float64 the exponentials of different float16 numbers differ, so a member alone keeps its own order.
    scores = np.asarray(block, np.float64)
    if averaging == "probabilities":
        scores = np.exp(scores)
    with np.errstate(invalid="ignore"):
        margins: Floats = scores - np.take_along_axis(scores, labels[:, None], axis=1)
    # A NaN has no margin: it is ahead, unless it is the true class itself. By a finite number, since a member without
    # weight has no say, and 0 times infinity is NaN.
    margins = np.nan_to_num(margins, nan=_FAR_AHEAD, posinf=_FAR_AHEAD, neginf=-_FAR_AHEAD)
    margins[np.arange(len(labels)), labels] = 0.0
    return margins
