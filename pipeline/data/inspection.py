"""One image file: is it whole, and do all decoders here read the same pixels from it?

The stage `prepare` asks this of every file once, because nobody does later: DALI cannot skip a bad image, cuts crops
out of truncated and zero-tailed JPEGs without noticing, and takes 12 GB for one of 400 megapixels.

What the decoders make of odd files (DALI 2.4 CPU `decoders.image` and `decoders.image_slice` with
`adjust_orientation=False`, torchvision 0.29 `decode_image` and Pillow 13, all to RGB; tests/data/test_inspection.py
repeats it for every kind that is accepted; DALI rounds differently, by 1 of 255, where it says "to 1"):

    kind                                              DALI       torchvision   Pillow    here
    JPEG baseline or progressive, any subsampling     same       same          same      accepted
    JPEG grey                                         same       same          same      accepted, flag grey
    JPEG CMYK or YCCK with Adobe's marker             to 1       same          same      accepted, flag cmyk
    JPEG CMYK without Adobe's marker                  inverted   same          same      not_read_alike
    JPEG of several pictures (MPO)                    first      first         first     accepted, flag mpo
    JPEG, PNG, WebP with EXIF orientation             as stored  as stored     as stored accepted, flag exif_rotated
    1 x 1, 1 x 5000, ICC profile, bytes after the end same       same          same      accepted
    PNG RGB, grey, 1 bit, palette, interlaced, gamma  same       same          same      accepted, flag png
    PNG or WebP with transparency                     dropped    dropped       dropped   accepted, flag alpha
    PNG of 16 bits                                    8 bits     overflows     8 bits    not_read_alike
    PNG animated                                      first      first         first     animated
    WebP                                              same       same          same      accepted, flag webp
    WebP animated                                     first      error         first     animated
    GIF                                               error      same          same      unsupported_format
    BMP, TIFF, JPEG 2000, PPM                         same       error         same      unsupported_format
    AVIF                                              error      error         same      unsupported_format
    PNG with damaged data                             error      crashes       error     corrupt
    PNG with wrong checksums or too few rows          error      crashes       same      corrupt

Damage that no decoder notices (a flipped bit inside a JPEG's coded pixels, data cut off with an end marker added, a
zero tail of a WebP) cannot be seen here either; the checksum in the index at least shows when a file changes later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import stat
import warnings

from PIL import Image

from pipeline.data.png import SIGNATURE, bit_depth, png_damage

MAX_PIXELS = 178_956_970
"""Pillow refuses larger images. ImageNet's largest is far below it; DALI needs some 30 bytes a pixel."""

_MAGIC = {"JPEG": b"\xff\xd8\xff", "PNG": SIGNATURE, "WEBP": b"RIFF"}
_UNSUPPORTED_MAGIC = {
    "GIF": (b"GIF8",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*"),
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "PNM": (b"P5\n", b"P6\n"),
}
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"mif1": "HEIF"}
_ORIENTATION_TAG = 0x112
_UPRIGHT = 1
_MIN_ZERO_TAIL = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """Properties of one file. Without a `finding` it is a good image."""

    num_bytes: int = 0
    width: int = 0
    height: int = 0
    sha256: str = ""
    """Hexadecimal."""
    flags: tuple[str, ...] = ()
    finding: str = ""
    """empty, truncated, zero_tail, corrupt, not_an_image, unsupported_format, animated, not_read_alike, too_large,
    not_a_file, unreadable; or nothing."""
    detail: str = ""


class _Bad(Exception):
    """A reason to refuse a file: finding and detail."""


def inspect_file(path: str) -> Inspection:
    """Read the file once and decode it whole. Never raises for any content of the file, or anything in its place."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            return Inspection(finding="not_a_file", detail="a folder" if stat.S_ISDIR(mode) else "not a regular file")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return Inspection(finding="unreadable", detail=error.strerror or str(error))
    return inspect_content(content)


def inspect_content(content: bytes) -> Inspection:
    """Inspect the bytes of a file as `inspect_file` does."""
    facts = Inspection(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of sizes below our limit; neither changes the pixels.
            warnings.simplefilter("ignore")
            width, height, flags = _decode(content)
    except _Bad as reason:
        finding, detail = reason.args
        return dataclasses.replace(facts, finding=finding, detail=detail)
    return dataclasses.replace(facts, width=width, height=height, flags=flags)


def _decode(content: bytes) -> tuple[int, int, tuple[str, ...]]:
    kind = _kind(content)
    try:
        image = Image.open(io.BytesIO(content), formats=[kind])
        _refuse_before_decoding(image, kind, content)
        flags = _flags(image)
        image.load()
        if kind == "PNG" and (damage := png_damage(content)):
            raise _Bad("corrupt", damage)
        # Only now, since PNG and WebP may keep their EXIF data behind the pixels.
        if _is_rotated(image):
            flags.append("exif_rotated")
    except _Bad:
        raise
    except Image.DecompressionBombError as error:
        raise _Bad("too_large", f"more than {MAX_PIXELS:,} pixels") from error
    except (
        Exception
    ) as error:  # whatever a decoder raises on a damaged file, the other million files must still be inspected
        raise _damage(content, error) from error
    return image.width, image.height, tuple(flags)


def _kind(content: bytes) -> str:
    if not content:
        raise _Bad("empty", "0 bytes")
    for kind, start in _MAGIC.items():
        if content.startswith(start) and (kind != "WEBP" or content[8:12] == b"WEBP"):
            return kind
    for kind, starts in _UNSUPPORTED_MAGIC.items():
        if content.startswith(starts):
            raise _Bad("unsupported_format", f"{kind}; convert it to JPEG or PNG")
    if content[4:8] == b"ftyp" and content[8:12] in _BRANDS:
        raise _Bad("unsupported_format", f"{_BRANDS[content[8:12]]}; convert it to JPEG or PNG")
    if not content.strip(b"\0"):
        raise _Bad("zero_tail", f"all {len(content):,} bytes are zero")
    raise _Bad("not_an_image", f"begins with {content[:24]!r}")


def _refuse_before_decoding(image: Image.Image, kind: str, content: bytes) -> None:
    if kind != "JPEG" and getattr(image, "is_animated", False):
        raise _Bad("animated", f"{kind} of {getattr(image, 'n_frames', 0)} frames")
    if kind == "PNG" and bit_depth(content) == 16:
        raise _Bad("not_read_alike", "16 bits a channel; convert it to 8")
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise _Bad("not_read_alike", "CMYK without Adobe's marker, which decoders invert or not; convert it to RGB")


def _flags(image: Image.Image) -> list[str]:
    flags = []
    if image.format not in ("JPEG", None):
        flags.append(str(image.format).lower())
    if image.mode == "CMYK":
        flags.append("cmyk")
    if image.mode in ("1", "L", "LA"):
        flags.append("grey")
    if image.mode == "P":
        flags.append("palette")
    if image.mode in ("RGBA", "LA") or "transparency" in image.info:
        flags.append("alpha")
    return flags


def _is_rotated(image: Image.Image) -> bool:
    if "exif" not in image.info:
        return False
    try:
        return bool(image.getexif().get(_ORIENTATION_TAG, _UPRIGHT) != _UPRIGHT)
    except Exception:  # damaged EXIF data does not change the pixels, and no loader reads it
        return False


def _damage(content: bytes, error: Exception) -> _Bad:
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros >= _MIN_ZERO_TAIL:
        return _Bad("zero_tail", f"the last {zeros:,} of {len(content):,} bytes are zero")
    cut_webp = content.startswith(_MAGIC["WEBP"]) and int.from_bytes(content[4:8], "little") + 8 > len(content)
    if cut_webp or "truncated" in str(error).lower():
        return _Bad("truncated", f"ends after {len(content):,} bytes, before the image does")
    return _Bad("corrupt", f"{type(error).__name__}: {error}")
