"""The footer and header of a VHD image.

Source: Microsoft, "Virtual Hard Disk Image Format Specification" 1.0 (2006). A fixed image is a raw
disk and its footer; a dynamic one has the footer at both ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.disk.blocks.source import Source
from pipeline.disk.foreign.words import big, broken, refused, shown

MAGIC = b"conectix"
_FOOTER, _HEADER = 512, 1024
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_LARGEST = 2040 << 30  # the specification's own


@dataclass(frozen=True)
class Vhd:
    """size: bytes of the disk. fixed: whether these are the file's first bytes as they are."""

    size: int
    fixed: bool


def is_vhd(source: Source) -> bool:
    """Whether a footer is at either end. At the end alone only a whole one counts: a raw disk may
    end with anything."""
    if source.size < _FOOTER:
        return False
    if source.read(0, 8) == MAGIC:
        return True
    last = source.read(source.size - _FOOTER, _FOOTER)
    return last[:8] == MAGIC and _sound(last)


def check(source: Source) -> Vhd:
    """What a VHD holds. InputError for a layer over another image, DiskError for damage."""
    first = source.read(0, _FOOTER)
    last = source.read(source.size - _FOOTER, _FOOTER)
    if first[:8] != MAGIC:
        if big(last, 60, 4) == _FIXED:
            return _fixed(source, last)
        raise broken(
            source,
            "vhd",
            "the copy of its footer at its beginning is damaged; the footer at its end is whole and"
            " says the same: write its last 512 bytes over its first",
        )
    if not _sound(first):
        raise broken(source, "vhd", "the checksum of its header is wrong")
    kind, size = big(first, 60, 4), big(first, 48, 8)
    if kind == _FIXED:  # a raw disk whose first sector happens to be a footer
        return _fixed(source, last)
    if kind not in (_DYNAMIC, _DIFFERENCING):
        raise broken(source, "vhd", f"its type {kind} is unknown")
    place = big(first, 16, 8)
    if place + _HEADER > source.size:
        raise broken(source, "vhd", "it is cut off: its header does not lie in the file")
    header = source.read(place, _HEADER)
    if header[:8] != b"cxsparse" or not _sound(header, 36):
        raise broken(source, "vhd", "its second header is damaged")
    if kind == _DIFFERENCING or any(header[40:56]):
        name = header[64:576].decode("utf-16-be", errors="replace").partition("\0")[0]
        raise refused(
            source, f"it is a snapshot over another file, which is not opened: {shown(name)}"
        )
    table, entries, block = big(header, 16, 8), big(header, 28, 4), big(header, 32, 4)
    if not block or block & block - 1 or block > 1 << 28 or not 0 < size <= _LARGEST:
        raise broken(source, "vhd", "its sizes are impossible")
    if entries * block < size or table + 4 * entries > source.size:
        raise broken(source, "vhd", "it is cut off: its table does not lie in the file")
    return Vhd(size, fixed=False)


def _fixed(source: Source, footer: bytes) -> Vhd:
    size = big(footer, 48, 8)
    if footer[:8] != MAGIC or not _sound(footer):
        raise broken(source, "vhd", "it is cut off: its footer is missing or damaged")
    if size > source.size - _FOOTER:
        raise broken(source, "vhd", "it is cut off: it is shorter than its footer says")
    return Vhd(size, fixed=True)


def _sound(block: bytes, at: int = 64) -> bool:
    """Whether a footer, or a header, has the checksum that it says."""
    return big(block, at, 4) == ~(sum(block) - sum(block[at : at + 4])) & 0xFFFFFFFF
