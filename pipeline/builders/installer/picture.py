"""The guest's screen as PNG: qemu before 7.1 only gives PPM."""

from __future__ import annotations

import re
import struct
import zlib

_HEADER = re.compile(rb"P6\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s")
_MAX_SIDE = 8192


def png_from_ppm(data: bytes) -> bytes:
    """The picture as PNG (RFC 2083), 8 bits RGB; ValueError for anything but a binary PPM."""
    match = _HEADER.match(data)
    if match is None:
        raise ValueError("it is not a binary PPM of 8 bits")
    width, height = int(match[1]), int(match[2])
    pixels = data[match.end() :]
    if not 0 < width <= _MAX_SIDE or not 0 < height <= _MAX_SIDE:
        raise ValueError(f"{width} x {height} is no screen")
    if len(pixels) < width * height * 3:
        raise ValueError("it is cut short")
    rows = b"".join(
        b"\0" + pixels[line * width * 3 : (line + 1) * width * 3] for line in range(height)
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
