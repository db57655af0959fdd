"""The header of a VMDK image, as far as it says what else would have to be opened.

Source: VMware, "Virtual Disk Format 5.0" (2011). One file with everything in it is read, sparse or
stream-optimised; a descriptor that names others, a snapshot and a part of a larger disk are not.
"""

from __future__ import annotations

import re

from pipeline.disk.blocks.source import Source
from pipeline.disk.foreign.words import broken, little, refused, shown

MAGIC = b"KDMV"
DESCRIPTOR = b"# Disk DescriptorFile"
_SECTOR = 512
_HEADER = 79
_MOST_TEXT = 1 << 20
_QEMU_READS_AT, _QEMU_READS = 512, 20 * 512
"""Where QEMU looks for the descriptor, whatever the header says (block/vmdk.c, vmdk_open)."""
_AT_END = (1 << 64) - 1
_FOOTER = 1536  # bytes from the end: marker, footer, end of stream
_KINDS = frozenset({"", "monolithicsparse", "streamoptimized"})
_NO_PARENT = "ffffffff"
_FIELD = re.compile(r'^\s*(\w+)\s*=\s*"?([^"\n]*)"?\s*$', re.MULTILINE)
_EXTENT = re.compile(r'^\s*(?:RW|RDONLY|NOACCESS)\s+\d+\s+(\w+)\s*(?:"([^"\n]*)")?', re.MULTILINE)
_LARGEST = 1 << 50


def check(source: Source) -> int:
    """The virtual size in bytes of a sparse or stream-optimised image of one file.

    InputError for one that names other files, DiskError for a header that makes no sense.
    """
    if source.size < 2 * _SECTOR:
        raise broken(source, "vmdk", "it is cut off")
    head = source.read(0, _SECTOR)
    sectors = _sectors(source, head)
    place, length = little(head, 28, 8) * _SECTOR, little(head, 36, 8) * _SECTOR
    if little(head, 56, 8) == _AT_END:
        _check_footer(source, sectors)
    if not place or not length:
        raise refused(
            source,
            "it has no descriptor, so it is one of the files of a larger disk",
            "Export the whole disk as one file (ovftool, or qemu-img convert)",
        )
    if length > _MOST_TEXT or place + length > source.size:
        raise broken(source, "vmdk", "its descriptor does not lie in the file")
    _check_text(source, source.read(place, length))
    rest = min(_QEMU_READS, source.size - _QEMU_READS_AT)
    _check_text(source, source.read(_QEMU_READS_AT, rest))
    return sectors * _SECTOR


def refuse_descriptor(source: Source) -> None:
    """InputError for a text that names the files with the data, naming these."""
    text = source.read(0, min(source.size, _MOST_TEXT)).decode("latin-1")
    names = [shown(name) for _, name in _EXTENT.findall(text) if name]
    flat = [name for name in names if name.endswith("-flat.vmdk")]
    step = f"Give the raw disk {flat[0]} itself" if len(names) == 1 and flat else ""
    raise refused(
        source,
        "it is a VMDK descriptor, whose data lie in other files, which are not opened: "
        + (", ".join(names[:3]) or "none is named"),
        step,
    )


def _sectors(source: Source, head: bytes) -> int:
    if head[:4] != MAGIC or little(head, 4, 4) not in (1, 2, 3):
        raise broken(source, "vmdk", f"its header is of version {little(head, 4, 4)}")
    sectors, grain = little(head, 12, 8), little(head, 20, 8)
    if not sectors:
        raise refused(source, "its header says that its data lie in other files")
    if sectors * _SECTOR > _LARGEST or not 8 <= grain <= 1 << 14 or grain & grain - 1:
        raise broken(source, "vmdk", "its sizes are impossible")
    return sectors


def _check_footer(source: Source, sectors: int) -> None:
    """The second header, which rules where the first has no directory."""
    if source.size < 4 * _SECTOR:
        raise broken(source, "vmdk", "it is cut off")
    footer = source.read(source.size - _FOOTER + _SECTOR, _SECTOR)
    if footer[:4] != MAGIC or little(footer, 12, 8) != sectors:
        raise broken(source, "vmdk", "it is cut off: its footer is missing")


def _check_text(source: Source, raw: bytes) -> None:
    text = raw.partition(b"\0")[0].decode("latin-1")
    fields = {name.lower(): value.strip() for name, value in _FIELD.findall(text)}
    hint = fields.get("parentfilenamehint", "")
    if hint or fields.get("parentcid", _NO_PARENT).lower() != _NO_PARENT:
        named = f": {shown(hint)}" if hint else ""
        raise refused(source, f"it is a snapshot over another file, which is not opened{named}")
    kind = fields.get("createtype", "")
    names = [shown(name) for _, name in _EXTENT.findall(text)]
    if kind.lower() not in _KINDS or len(names) > 1:
        raise refused(
            source,
            f"it is a disk of type {shown(kind)} over other files, which are not opened: "
            + ", ".join(names[:3]),
        )
