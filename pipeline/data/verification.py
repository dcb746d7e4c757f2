"""Whether the files that a loader reads are still those that `prepare` read."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.ground.errors import UserError

Integers = npt.NDArray[np.int64]
_ADVICE = "the images have changed since they were prepared: restore them, or run prepare again"


def require_sizes(index: ImageIndex, positions: Integers, num_bytes: Integers) -> None:
    """UserError that names the first file of which a loader read another number of bytes than `prepare` did.

    This costs nothing, since the bytes are read anyway, and catches what decoding alone does not: a JPEG that was cut
    short decodes without an error where the crop lies above the cut.
    """
    for place in np.flatnonzero(num_bytes != index.num_bytes[positions])[:1]:
        position = positions[place]
        raise UserError(
            f"{index.name(position)}: {num_bytes[place]:,} bytes, {index.num_bytes[position]:,} when prepare read it; "
            + _ADVICE
        )


def changed_files(index: ImageIndex, positions: Integers) -> str | None:
    """After a loader failed: what is no longer as `prepare` found it, a line a file; None where nothing has changed."""
    problems = [
        f"{index.name(position)}: {problem}"
        for position in dict.fromkeys(positions.tolist())
        if (problem := _change(index, position))
    ]
    return "\n".join([*problems[:20], _ADVICE]) if problems else None


def _change(index: ImageIndex, position: int) -> str | None:
    try:
        with EncodedImages(index, np.array([position])) as images:
            content = images.read(position)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except UserError as error:
        return str(error)
    if len(content) != index.num_bytes[position]:
        return f"{len(content):,} bytes, {index.num_bytes[position]:,} when prepare read it"
    digest = hashlib.sha256(content).hexdigest()
    return None if digest.startswith(index.sha256[position]) else "its content has changed (SHA-256 differs)"
