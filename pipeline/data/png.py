"""Find damage in PNG files that Pillow overlooks and that libpng, and so every loader, refuses or crashes on."""

from __future__ import annotations

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, column step and row step of each pass of an interlaced image."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of channels by colour type."""
_CHUNK_FRAME_BYTES = 12
"""Length, kind and checksum around a chunk's data."""


def bit_depth(content: bytes) -> int:
    """Return the bits per channel from the header."""
    return content[24]


def png_damage(content: bytes) -> str | None:
    """Describe the damage of a PNG with a sound header: a checksum, compressed data, too few pixels. Returns None if it
    is whole."""
    expected = _num_decompressed_bytes(content)
    decompressor = zlib.decompressobj()
    num_bytes = 0
    position = len(SIGNATURE)
    while position + _CHUNK_FRAME_BYTES <= len(content):
        (size,) = struct.unpack_from(">I", content, position)
        kind, data = content[position + 4 : position + 8], content[position + 8 : position + 8 + size]
        position += size + _CHUNK_FRAME_BYTES
        is_critical = kind[:1].isupper()
        if is_critical and zlib.crc32(kind + data) != int.from_bytes(content[position - 4 : position], "big"):
            return f"wrong checksum of a chunk {kind.decode('latin-1')}"
        if kind == b"IDAT" and num_bytes < expected:
            try:
                num_bytes += len(decompressor.decompress(data, expected - num_bytes))
            except zlib.error as error:
                return f"damaged pixels ({error})"
        if kind == b"IEND":
            return None if num_bytes == expected else f"{num_bytes:,} of {expected:,} bytes of pixels"
    return "no end"


def _num_decompressed_bytes(content: bytes) -> int:
    header: tuple[int, ...] = struct.unpack_from(">IIBBBBB", content, len(SIGNATURE) + 8)
    width, height, depth, colour, _, _, interlaced = header
    bits = depth * _CHANNELS[colour]
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for first_column, first_row, column_step, row_step in _ADAM7:
        columns, rows = -((first_column - width) // column_step), -((first_row - height) // row_step)
        if columns > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
