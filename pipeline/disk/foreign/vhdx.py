"""The tables of a VHDX image that say what it needs beside itself.

Source: Microsoft, [MS-VHDX] 7.0: headers, region tables and metadata.
"""

from __future__ import annotations

from uuid import UUID

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Source
from pipeline.disk.foreign.words import broken, little, refused, shown

MAGIC = b"vhdxfile"
_HEADERS, _REGIONS = (64 << 10, 128 << 10), (192 << 10, 256 << 10)
_TABLE = 64 << 10
_METADATA = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le
_PARAMETERS = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B").bytes_le
_SIZE = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8").bytes_le
_LOCATOR = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C").bytes_le
_HAS_PARENT = 2
_MOST_ENTRIES, _MOST_ITEM = 2047, 1 << 20
_LARGEST = 64 << 40


def check(source: Source) -> int:
    """Bytes of the disk. InputError for a layer over another image, DiskError for damage."""
    if source.size < 1 << 20:
        raise broken(source, "vhdx", "it is cut off")
    heads = [source.read(at, 4096) for at in _HEADERS]
    heads = [head for head in heads if head[:4] == b"head"]
    if not heads:
        raise broken(source, "vhdx", "both of its headers are damaged")
    if any(max(heads, key=lambda head: little(head, 8, 8))[48:64]):
        raise DiskError(
            "read the vhdx image",
            source.name,
            why="it was not closed: its log has changes that are not in it yet",
            next_step="Have its hypervisor open and close it once",
        )
    # QEMU may take either of the two tables: both must be harmless.
    sizes = [_look(source, at) for at in _REGIONS if source.read(at, 4) == b"regi"]
    if not sizes or sizes[0] != sizes[-1]:
        raise broken(source, "vhdx", "its region tables are damaged")
    return sizes[0]


def _look(source: Source, at: int) -> int:
    table = source.read(at, _TABLE)
    places = []
    for index in range(min(little(table, 8, 4), _MOST_ENTRIES)):
        entry = table[16 + 32 * index : 48 + 32 * index]
        if entry[:16] == _METADATA:
            places.append(little(entry, 16, 8))
    if len(places) != 1 or places[0] + _TABLE > source.size:
        raise broken(source, "vhdx", "its metadata do not lie in the file")
    items = _items(source, places[0])
    if _LOCATOR in items or _HAS_PARENT & little(items.get(_PARAMETERS, b""), 4, 4):
        named = _parent(items.get(_LOCATOR, b""))
        raise refused(source, f"it is a snapshot over another file, which is not opened{named}")
    size = little(items.get(_SIZE, b""), 0, 8)
    if _PARAMETERS not in items or not 0 < size <= _LARGEST:
        raise broken(source, "vhdx", "its sizes are impossible")
    return size


def _items(source: Source, place: int) -> dict[bytes, bytes]:
    table = source.read(place, _TABLE)
    if table[:8] != b"metadata":
        raise broken(source, "vhdx", "its metadata are damaged")
    items: dict[bytes, bytes] = {}
    for index in range(min(little(table, 10, 2), _MOST_ENTRIES)):
        entry = table[32 + 32 * index : 64 + 32 * index]
        at, length = place + little(entry, 16, 4), little(entry, 20, 4)
        if length > _MOST_ITEM or at + length > source.size or entry[:16] in items:
            raise broken(source, "vhdx", "its metadata are damaged")
        if entry[:16] in (_PARAMETERS, _SIZE, _LOCATOR):
            items[entry[:16]] = source.read(at, length)
    return items


def _parent(locator: bytes) -> str:
    """The names that a parent locator holds, for people."""
    names = []
    for index in range(min(little(locator, 18, 2), 16)):
        at = 20 + 12 * index
        value, length = little(locator, at + 4, 4), little(locator, at + 10, 2)
        names.append(locator[value : value + length].decode("utf-16-le", errors="replace"))
    paths = [shown(name) for name in names if "\\" in name or "/" in name or "." in name]
    return f": {', '.join(paths[:3])}" if paths else ""
