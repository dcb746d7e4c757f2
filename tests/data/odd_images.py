"""Odd image files, made from nothing: what lies around in real folders, good and bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

_ORIENTATION_TAG = 0x112


def picture(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """Colour ramps, a sharp square and some noise, so that a wrong reading shows."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 30, 60)
    pixels = pixels + np.random.default_rng(seed).integers(-8, 9, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def four_inks(image: Image.Image) -> Image.Image:
    """CMYK with as much black as there is, of which Pillow's own conversion uses none."""
    return Image.merge("CMYK", (*image.split(), image.convert("L")))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[_ORIENTATION_TAG] = orientation
    return tags


def png_16_bit(pixels: npt.NDArray[np.uint16]) -> bytes:
    """RGB with 16 bits a channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return _png(width, height, bit_depth=16, compressed=zlib.compress(rows))


def png_of_size(width: int, height: int) -> bytes:
    """Header of an RGB PNG of that size, with one row of pixels behind it."""
    return _png(width, height, bit_depth=8, compressed=zlib.compress(bytes(1 + 3 * width)))


def png_interlaced(image: Image.Image) -> bytes:
    """RGB in the seven passes of Adam7, which Pillow cannot write."""
    pixels = np.asarray(image)
    starts_and_steps = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    passes = [pixels[row::row_step, column::column_step] for row, column, row_step, column_step in starts_and_steps]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    return _png(*image.size, bit_depth=8, compressed=zlib.compress(rows), interlaced=1)


def png_of_rows(image: Image.Image, num_rows: int) -> bytes:
    """A whole RGB PNG, except that rows are missing in its compressed data."""
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(image)[:num_rows])
    return _png(*image.size, bit_depth=8, compressed=zlib.compress(rows))


def _png(width: int, height: int, bit_depth: int, compressed: bytes, interlaced: int = 0) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rgb = 2
    header = struct.pack(">IIBBBBB", width, height, bit_depth, rgb, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    content = bytearray(encode(picture(), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def accepted() -> dict[str, tuple[bytes, tuple[str, ...]]]:
    """Files that all decoders read alike, by name, each with the flags it must get."""
    image = picture()
    translucent = image.copy()
    translucent.putalpha(image.convert("L"))
    cmyk = encode(four_inks(image), "JPEG", quality=90)
    ycck = bytearray(cmyk)
    ycck[cmyk.index(b"Adobe") + 11] = 2
    jpeg = encode(image, "JPEG", quality=90)
    damaged_exif = b"\xff\xe1\x00\x20Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 14
    second = picture(seed=1)
    return {
        "plain.jpg": (jpeg, ()),
        "no_subsampling.jpg": (encode(image, "JPEG", quality=90, subsampling=0), ()),
        "progressive.jpg": (encode(image, "JPEG", quality=90, progressive=True), ()),
        "rgb_inside.jpg": (encode(image, "JPEG", quality=90, keep_rgb=True), ()),
        "one_pixel.jpg": (encode(picture(8, 8).crop((0, 0, 1, 1)), "JPEG"), ()),
        "1x5000.jpg": (encode(picture(8, 5000).crop((0, 0, 1, 5000)), "JPEG"), ()),
        "5000x1.jpg": (encode(picture(5000, 8).crop((0, 0, 5000, 1)), "JPEG"), ()),
        "grey.jpg": (encode(image.convert("L"), "JPEG"), ("grey",)),
        "cmyk.jpg": (cmyk, ("cmyk",)),
        "ycck.jpg": (bytes(ycck), ("cmyk",)),
        "several_pictures.jpg": (encode(image, "MPO", save_all=True, append_images=[second]), ("mpo",)),
        "rotated.jpg": (encode(image, "JPEG", exif=exif(6)), ("exif_rotated",)),
        "upright.jpg": (encode(image, "JPEG", exif=exif(1)), ()),
        "damaged_exif.jpg": (jpeg[:2] + damaged_exif + jpeg[2:], ()),
        "bytes_behind.jpg": (jpeg + b"behind the end" * 9, ()),
        "zeros_behind.jpg": (jpeg + bytes(512), ()),
        "colour.png": (encode(image, "PNG"), ("png",)),
        "png_inside.JPEG": (encode(image, "PNG"), ("png",)),
        "one_pixel.png": (encode(picture(1, 1), "PNG"), ("png",)),
        "interlaced.png": (png_interlaced(image), ("png",)),
        "grey.png": (encode(image.convert("L"), "PNG"), ("png", "grey")),
        "black_and_white.png": (encode(image.convert("1"), "PNG"), ("png", "grey")),
        "palette.png": (encode(image.quantize(64), "PNG"), ("png", "palette")),
        "palette_transparent.png": (encode(image.quantize(64), "PNG", transparency=3), ("png", "palette", "alpha")),
        "rgba.png": (encode(translucent, "PNG"), ("png", "alpha")),
        "grey_alpha.png": (encode(translucent.convert("LA"), "PNG"), ("png", "grey", "alpha")),
        "rotated.png": (encode(image, "PNG", exif=exif(3)), ("png", "exif_rotated")),
        "lossy.webp": (encode(image, "WEBP", quality=90), ("webp",)),
        "rgba.webp": (encode(translucent, "WEBP", lossless=True), ("webp", "alpha")),
        "rotated.webp": (encode(image, "WEBP", exif=exif(6)), ("webp", "exif_rotated")),
    }


def refused() -> dict[str, tuple[bytes, str, str]]:
    """Files that cannot be trained on, by name, each with its finding and a part of the detail."""
    image = picture()
    jpeg, png = encode(image, "JPEG", quality=90), encode(image, "PNG")
    damaged, wrong_checksum = bytearray(png), bytearray(png)
    damaged[len(png) // 2] ^= 0xFF
    wrong_checksum[-16] ^= 0xFF
    webp = encode(image, "WEBP", quality=90)
    cmyk = encode(image.convert("CMYK"), "JPEG")
    marker = cmyk.index(b"Adobe") - 4
    no_marker = cmyk[:marker] + cmyk[marker + 2 + int.from_bytes(cmyk[marker + 2 : marker + 4], "big") :]
    half = len(jpeg) // 2
    colours = np.asarray(image).astype(np.uint16) * 257
    both: dict[str, object] = {"save_all": True, "append_images": [picture(seed=1)]}
    return {
        "empty.jpg": (b"", "empty", "0 bytes"),
        "page.JPEG": (b"<!DOCTYPE html><html>404</html>", "not_an_image", "DOCTYPE"),
        "notes.txt": (b"some notes", "not_an_image", "some notes"),
        "truncated.jpg": (jpeg[:half], "truncated", f"after {half:,} bytes"),
        "without_end.jpg": (jpeg[:-2], "truncated", "before the image does"),
        "truncated.png": (png[:-200], "truncated", ""),
        "header_only.jpg": (jpeg[:100], "truncated", ""),
        "zero_tail.jpg": (jpeg[:half] + bytes(len(jpeg) - half), "zero_tail", f"of {len(jpeg):,} bytes are zero"),
        "all_zero.jpg": (bytes(4096), "zero_tail", "all 4,096 bytes are zero"),
        "truncated.webp": (webp[:-100], "truncated", ""),
        "damaged.png": (bytes(damaged), "corrupt", ""),
        "wrong_checksum.png": (bytes(wrong_checksum), "corrupt", "wrong checksum of a chunk IDAT"),
        "rows_missing.png": (png_of_rows(image, 119), "corrupt", "57,239 of 57,720 bytes of pixels"),
        "no_frame.jpg": (jpeg.replace(b"\xff\xc0", b"\xff\xe9"), "corrupt", ""),
        "400_megapixels.png": (png_of_size(20_000, 20_000), "too_large", "more than 178,956,970 pixels"),
        "65500.jpg": (jpeg_of_size(65_500, 65_500), "too_large", "more than 178,956,970 pixels"),
        "sixteen_bit_grey.png": (
            encode(Image.fromarray(colours[..., 0]), "PNG"),
            "not_read_alike",
            "16 bits a channel",
        ),
        "sixteen_bit.png": (png_16_bit(colours), "not_read_alike", "16 bits a channel"),
        "cmyk_without_marker.jpg": (no_marker, "not_read_alike", "CMYK without Adobe's marker"),
        "animated.png": (encode(image, "PNG", **both), "animated", "PNG of 2 frames"),
        "animated.webp": (encode(image, "WEBP", **both), "animated", "WEBP of 2 frames"),
        "animated.gif": (encode(image, "GIF", **both), "unsupported_format", "GIF; convert it"),
        "still.gif": (encode(image, "GIF"), "unsupported_format", "GIF"),
        "x.bmp": (encode(image, "BMP"), "unsupported_format", "BMP"),
        "x.tiff": (encode(image, "TIFF"), "unsupported_format", "TIFF"),
        "x.jp2": (encode(image, "JPEG2000"), "unsupported_format", "JPEG 2000"),
        "x.avif": (encode(image, "AVIF"), "unsupported_format", "AVIF"),
    }
