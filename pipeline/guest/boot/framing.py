"""Where a compressed stream ends, for formats whose programs do not say: zstd and legacy lz4.

A ramdisk may be several archives, each compressed by itself, with zeros between; zstd(1) and lz4(1)
stop at the zeros and leave nothing but an exit status. The frames say themselves how long they are.
Sources: RFC 8878 (Zstandard); lz4's frame format, "Legacy frame". Nothing is decompressed here.
"""

from __future__ import annotations

from typing import BinaryIO

ZSTD = b"\x28\xb5\x2f\xfd"
LZ4_LEGACY = b"\x02\x21\x4c\x18"  # the one that the kernel knows
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_MAX_BLOCKS = 1 << 20  # a stream of a gigabyte has some 10,000
_MAX_LEGACY = (8 << 20) + (8 << 20) // 255 + 16  # bytes: what 8 MiB can at worst become
_RLE = 1


class FrameError(Exception):
    """The stream ends too early, or is none."""


def stream_end(file: BinaryIO, start: int) -> int:
    """The byte behind the frames that begin at `start`, one directly behind the other."""
    magic = _at(file, start, 4)
    if magic == LZ4_LEGACY:
        return _legacy_end(file, start)
    at, left = start, _MAX_BLOCKS
    while True:
        magic = _peek(file, at, 4)
        if magic == ZSTD:
            at, left = _frame_end(file, at + 4, left)
        elif int.from_bytes(magic, "little") in _SKIPPABLE and len(magic) == 4:
            at += 8 + int.from_bytes(_at(file, at + 4, 4), "little")
            left -= 1
        else:
            return at
        if left <= 0:
            raise FrameError("its compressed stream has too many blocks")


def _frame_end(file: BinaryIO, at: int, left: int) -> tuple[int, int]:
    """The byte behind a frame whose magic ends at `at`, and how many blocks may still come."""
    (descriptor,) = _at(file, at, 1)
    single = bool(descriptor & 0x20)
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    at += 1 + (not single) + (0, 1, 2, 4)[descriptor & 3] + size
    last = False
    while not last and left > 0:
        head = int.from_bytes(_at(file, at, 3), "little")
        last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
        at += 3 + (1 if kind == _RLE else length)
        left -= 1
    return at + (4 if descriptor & 4 else 0), left


def _legacy_end(file: BinaryIO, at: int) -> int:
    """The byte behind a legacy stream, which has no mark of its end."""
    at += 4
    for _ in range(_MAX_BLOCKS):
        raw = _peek(file, at, 4)
        length = int.from_bytes(raw, "little")
        if raw == LZ4_LEGACY:
            at += 4
        elif len(raw) < 4 or not 0 < length <= _MAX_LEGACY:
            return at
        else:
            at += 4 + length
    raise FrameError("its compressed stream has too many blocks")


def _peek(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _at(file: BinaryIO, at: int, size: int) -> bytes:
    data = _peek(file, at, size)
    if len(data) < size:
        raise FrameError("its compressed stream is cut short")
    return data
