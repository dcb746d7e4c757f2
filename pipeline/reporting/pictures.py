"""Thumbnails of single images, embedded in the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

_SIDE_PX = 224
_QUALITY = 80


def data_uri(content: bytes, media_type: str) -> str:
    """Content as an address that needs no server."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def thumbnail(path: Path) -> str | None:
    """The image as an embedded JPEG of at most 224 px a side; None where it is gone or cannot be read any more.

    Like the loaders it takes the pixels as they are stored, without turning them by the EXIF tag.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (_SIDE_PX, _SIDE_PX))
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    small.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    if max(small.size) < _SIDE_PX // 4:
        scale = _SIDE_PX // 2 // max(small.size)
        small = small.resize((small.width * scale, small.height * scale), Image.Resampling.NEAREST)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=_QUALITY)
    return data_uri(content.getvalue(), "image/jpeg")
