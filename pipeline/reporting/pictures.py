"""Thumbnails of single images, embedded in the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from pipeline.data.encoded import EncodedImages
from pipeline.data.index import ImageIndex
from pipeline.ground.errors import UserError

_SIDE_PX = 224
_QUALITY = 80


def data_uri(content: bytes, media_type: str) -> str:
    """Return a data: URI with the content."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def thumbnail(index: ImageIndex, position: int) -> str | None:
    """Return the image as an embedded JPEG of at most 224 px a side, or None if it cannot be read any more.

    Ignores the EXIF orientation, as the loaders do.
    """
    if index.source is None:
        return None
    try:
        small = _read(index, position)
    except (OSError, UserError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    if max(small.size) < _SIDE_PX // 4:
        scale = _SIDE_PX // 2 // max(small.size)
        small = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY)
    return data_uri(content.getvalue(), "image/jpeg")


def _read(index: ImageIndex, position: int) -> Image.Image:
    assert index.source is not None
    if index.source.read_pixels is not None:
        return Image.fromarray(index.source.pixels[position])
    with (
        EncodedImages(index, np.array([position])) as images,
        Image.open(io.BytesIO(images.read(position))) as image,
    ):
        image.draft("RGB", (_SIDE_PX, _SIDE_PX))
        return image.convert("RGB")
