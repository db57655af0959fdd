"""The header of a VDI image. Source: VirtualBox, VDICore.h (VDIHEADER1PLUS)."""

from __future__ import annotations

from pipeline.disk.blocks.source import Source
from pipeline.disk.foreign.words import broken, little, refused

SIGNATURE_AT, SIGNATURE = 64, b"\x7f\x10\xda\xbe"
_VERSION = 0x10001
_DYNAMIC, _FIXED, _UNDO, _DIFFERENCING = 1, 2, 3, 4
_LINK, _PARENT, _UUID = 424, 440, 16
_LARGEST = 1 << 50


def check(source: Source) -> int:
    """Bytes of the disk. InputError for a layer over another image, DiskError for damage."""
    if source.size < 512:
        raise broken(source, "vdi", "it is cut off")
    head = source.read(0, 512)
    version, kind = little(head, 68, 4), little(head, 76, 4)
    if version != _VERSION:
        raise broken(source, "vdi", f"its header is of version {version:#x}, not 1.1")
    parents = head[_LINK : _LINK + _UUID], head[_PARENT : _PARENT + _UUID]
    if kind in (_UNDO, _DIFFERENCING) or any(map(any, parents)):
        raise refused(
            source,
            "it is a snapshot over another image, which is not opened",
            "Merge it first: VBoxManage clonemedium",
        )
    if kind not in (_DYNAMIC, _FIXED):
        raise broken(source, "vdi", f"its type {kind} is unknown")
    size, block, blocks = little(head, 368, 8), little(head, 376, 4), little(head, 384, 4)
    table, data = little(head, 340, 4), little(head, 344, 4)
    if block != 1 << 20 or size > blocks * block or size > _LARGEST or not size:
        raise broken(source, "vdi", "its sizes are impossible")
    if table + 4 * blocks > source.size or data > source.size:
        raise broken(source, "vdi", "it is cut off: its table does not lie in the file")
    return size
