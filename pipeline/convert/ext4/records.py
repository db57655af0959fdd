"""The structures of an ext4 file system as bytes: inodes, extent trees, directory blocks.

Offsets and checksums are those of the kernel's documentation (Documentation/filesystems/ext4).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from crc32c import crc32c as _crc32c

from pipeline.convert.ext4.geometry import BLOCK, INODE_SIZE
from pipeline.convert.ext4.space import Run
from pipeline.convert.ext4.stable import bucket, coarse, probes
from pipeline.convert.ext4.tree import Kind

MODE_BITS: dict[Kind, int] = {
    "file": 0x8000,
    "directory": 0x4000,
    "symlink": 0xA000,
    "character": 0x2000,
    "block": 0x6000,
    "fifo": 0x1000,
    "socket": 0xC000,
}
_FILE_TYPES: dict[Kind, int] = {
    "file": 1,
    "directory": 2,
    "character": 3,
    "block": 4,
    "fifo": 5,
    "socket": 6,
    "symlink": 7,
}
EXTENTS = 0x80000
FAST_LINK = 60  # bytes below which a link's target is kept in its inode
_MOST_LINKS = 65000
_EXTENT_MAGIC = 0xF30A
_MOST_OF_AN_EXTENT = 32768
_IN_INODE, _IN_BLOCK = 4, (BLOCK - 16) // 12  # extents
_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII96s")
_HEAD = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_NAME = struct.Struct("<IHBB")
_TAIL = 12
_ROOM = BLOCK - _TAIL
_EXTRA_SIZE = 32  # bytes of the inode beyond 128 that are fields
_EARLIEST, _LATEST = -(1 << 31), (1 << 34) - (1 << 31) - 1

Extent = tuple[int, int, int]
"""(first logical block, first physical block, count)."""


def crc(data: bytes | bytearray | memoryview, value: int = 0xFFFFFFFF) -> int:
    """CRC-32C as ext4 chains it: without the inversions at both ends."""
    return int(_crc32c(data, value ^ 0xFFFFFFFF)) ^ 0xFFFFFFFF


def inode_seed(seed: int, number: int) -> int:
    """What the checksums of an inode's own structures begin with; its generation is 0."""
    return crc(number.to_bytes(8, "little"), seed)


def _time(nanoseconds: int) -> tuple[int, int]:
    """(32 bits of seconds, two more of them and the nanoseconds)."""
    seconds, rest = divmod(nanoseconds, 10**9)
    if not _EARLIEST <= seconds <= _LATEST:
        seconds, rest = min(max(seconds, _EARLIEST), _LATEST), 0
    low = seconds & 0xFFFFFFFF
    signed = low - (1 << 32) if low >> 31 else low
    return low, (seconds - signed >> 32 & 3) | rest << 2


@dataclass(slots=True)
class Inode:
    """The fields of an inode. mtime: nanoseconds, and the other three times too. blocks: of 4 KiB.

    area: the 60 bytes of the block map. attributes: what follows the fields.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    links: int = 1
    blocks: int = 0
    flags: int = 0
    area: bytes = b""
    attribute_block: int = 0
    attributes: bytes = b""

    def pack(self, number: int, seed: int | None) -> bytes:
        """Its 256 bytes; seed: of the file system's checksums, None without."""
        seconds, extra = _time(self.mtime)
        sectors = self.blocks * (BLOCK // 512)
        # Whoever has too many subdirectories to count has "1" (dir_nlink).
        links = 1 if self.links >= _MOST_LINKS and self.mode & 0xF000 == 0x4000 else self.links
        raw = bytearray(
            _INODE.pack(
                self.mode, self.uid & 0xFFFF, self.size & 0xFFFFFFFF,
                seconds, seconds, seconds, 0, self.gid & 0xFFFF, links, sectors & 0xFFFFFFFF,
                self.flags, 0, self.area, 0, self.attribute_block & 0xFFFFFFFF, self.size >> 32, 0,
                sectors >> 32, self.attribute_block >> 32, self.uid >> 16, self.gid >> 16, 0, 0,
                _EXTRA_SIZE, 0, extra, extra, extra, seconds, extra, 0, 0, self.attributes,
            )
        )  # fmt: skip
        if seed is not None:
            value = crc(raw, inode_seed(seed, number))
            raw[0x7C:0x7E] = (value & 0xFFFF).to_bytes(2, "little")
            raw[0x82:0x84] = (value >> 16).to_bytes(2, "little")
        return bytes(raw)


def device_area(major: int, minor: int) -> bytes:
    """The block map of a device node: the old form where it fits, as the kernel has it."""
    if major < 256 and minor < 256:
        return struct.pack("<II", major << 8 | minor, 0)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


def extents_of(wanted: Iterable[Run], placed: Iterable[Run]) -> list[Extent]:
    """Logical runs of a file laid over the physical runs that were found for them, in order."""
    found: list[Extent] = []
    places = iter(placed)
    place, room = 0, 0
    for first, count in wanted:
        logical, left = first, count
        while left:
            if not room:
                place, room = next(places)
            part = min(left, room)
            if (
                found
                and found[-1][0] + found[-1][2] == logical
                and (found[-1][1] + found[-1][2] == place)
            ):
                found[-1] = (found[-1][0], found[-1][1], found[-1][2] + part)
            else:
                found.append((logical, place, part))
            logical, place, left, room = logical + part, place + part, left - part, room - part
    return [
        (logical + at, place + at, min(_MOST_OF_AN_EXTENT, count - at))
        for logical, place, count in found
        for at in range(0, count, _MOST_OF_AN_EXTENT)
    ]


def index_blocks(extents: int) -> int:
    """Blocks that the tree of so many extents needs beside the inode."""
    total = 0
    while extents > _IN_INODE:
        extents = -(-extents // _IN_BLOCK)
        total += extents
    return total


def extent_tree(
    extents: Sequence[Extent], blocks: Sequence[int], seed: int | None
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """(the 60 bytes in the inode, (block, content) of the rest).

    blocks: as many as `index_blocks` says. seed: of the inode's checksums, None without.
    """
    below = [(logical, _EXTENT.pack(logical, n, at >> 32, at & 0xFFFFFFFF))
             for logical, at, n in extents]  # fmt: skip
    written: list[tuple[int, bytes]] = []
    depth, used = 0, iter(blocks)
    while len(below) > _IN_INODE:
        above = []
        for start in range(0, len(below), _IN_BLOCK):
            part = below[start : start + _IN_BLOCK]
            content = _node(part, _IN_BLOCK, depth).ljust(BLOCK - 4, b"\0")
            content += bytes(4) if seed is None else crc(content, seed).to_bytes(4, "little")
            block = next(used)
            written.append((block, content))
            logical = part[0][0]
            above.append((logical, _INDEX.pack(logical, block & 0xFFFFFFFF, block >> 32, 0)))
        below, depth = above, depth + 1
    return _node(below, _IN_INODE, depth), written


def _node(records: Sequence[tuple[int, bytes]], most: int, depth: int) -> bytes:
    head = _HEAD.pack(_EXTENT_MAGIC, len(records), most, depth, 0)
    return head + b"".join(record for _, record in records)


def _length(name: bytes) -> int:
    return 8 + (len(name) + 3) // 4 * 4


def arrange(names: Sequence[bytes]) -> list[list[bytes]]:
    """The names of a directory by the block that each lies in, in order.

    A name that comes or goes changes one block as a rule: which one, its own hash tells.
    """
    needed = sum(map(_length, names))
    first = 2 * _length(b"..")
    if needed <= _ROOM - first:
        return [list(names)]
    count = coarse(-(-needed * 3 // (2 * _ROOM)))
    blocks: list[list[bytes]] = [[] for _ in range(count)]
    room = [_ROOM - first] + [_ROOM] * (count - 1)
    for name in names:
        at = bucket(probes(name)[0], count)
        while room[at] < _length(name):
            at = (at + 1) % count
        room[at] -= _length(name)
        blocks[at].append(name)
    return blocks


def directory_blocks(
    arranged: Sequence[Sequence[bytes]],
    number: int,
    parent: int,
    find: Callable[[bytes], tuple[int, Kind]],
    seed: int | None,
) -> bytes:
    """The content of a directory. find: inode and kind of a name. seed: of its checksums."""
    written = []
    for index, names in enumerate(arranged):
        records = [(number, b".", 2), (parent, b"..", 2)] if index == 0 else []
        for name in names:
            inode, kind = find(name)
            records.append((inode, name, _FILE_TYPES[kind]))
        written.append(_directory_block(records, seed))
    return b"".join(written)


def _directory_block(records: Sequence[tuple[int, bytes, int]], seed: int | None) -> bytes:
    room = BLOCK if seed is None else _ROOM
    if not records:
        content = _NAME.pack(0, room, 0, 0).ljust(room, b"\0")
    else:
        parts = []
        left = room
        for inode, name, kind in records[:-1]:
            length = _length(name)
            parts.append(_NAME.pack(inode, length, len(name), kind) + name.ljust(length - 8, b"\0"))
            left -= length
        inode, name, kind = records[-1]
        parts.append(_NAME.pack(inode, left, len(name), kind) + name.ljust(left - 8, b"\0"))
        content = b"".join(parts)
    if seed is None:
        return content
    return content + _NAME.pack(0, _TAIL, 0, 0xDE) + crc(content, seed).to_bytes(4, "little")


assert _INODE.size == INODE_SIZE
