"""Superblock, group descriptors, journal and resize inode: what all file systems have, as bytes.

Sources: the kernel's documentation of ext4 (super.rst, group_descr.rst, journal.rst); the layout of
the resize inode is that of resize2fs(8): a double indirect block that lists the reserved descriptor
blocks, each of which lists its backups.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.convert.ext4.geometry import (
    BLOCK,
    DESCRIPTOR,
    GROUP_BLOCKS,
    INODE_SIZE,
    Geometry,
    Parameters,
)
from pipeline.convert.ext4.records import crc

RESIZE_INODE, JOURNAL_INODE, FIRST_INODE = 7, 8, 11
# has_journal, ext_attr, resize_inode, dir_index
_HAS_JOURNAL, _COMPAT = 0x4, 0x8 | 0x10 | 0x20
_INCOMPAT = 0x2 | 0x40 | 0x80 | 0x200  # filetype, extents, 64bit, flex_bg
# sparse_super, large_file, huge_file, dir_nlink, extra_isize
_RO_COMPAT = 0x1 | 0x2 | 0x8 | 0x20 | 0x40
_METADATA_CSUM = 0x400
_INODE_ZEROED = 0x4
_JOURNAL_MAGIC = 0xC03B3998
_POINTERS = BLOCK // 4


def seed_of(parameters: Parameters) -> int | None:
    """What all checksums of the file system begin with, None without checksums."""
    return crc(parameters.uuid.bytes) if parameters.checksums else None


@dataclass(frozen=True)
class Group:
    """What a descriptor says beside the places. bitmaps: both, a block each."""

    free_blocks: int
    free_inodes: int
    directories: int
    unused_inodes: int
    bitmaps: tuple[bytes, bytes]


def superblock(
    parameters: Parameters,
    geometry: Geometry,
    groups: Sequence[tuple[int, int]],
    journal: tuple[int, bytes],
) -> bytes:
    """The 1024 bytes, of group 0. groups: free blocks and inodes of each. journal: its size in
    bytes and block map, which are kept twice."""
    raw = bytearray(1024)
    free_blocks, free_inodes = (sum(column) for column in zip(*groups, strict=True))
    epoch, high = parameters.epoch & 0xFFFFFFFF, parameters.epoch >> 32
    blocks, reserved = geometry.blocks, parameters.reserved
    seed = parameters.checksums
    fields = (
        (0x0, "IIII", geometry.inodes, blocks & 0xFFFFFFFF, reserved & 0xFFFFFFFF,
         free_blocks & 0xFFFFFFFF),
        (0x10, "IIII", free_inodes, 0, 2, 2),  # blocks and clusters of 1024 << 2 bytes
        (0x20, "IIIII", GROUP_BLOCKS, GROUP_BLOCKS, geometry.inodes_a_group, 0, epoch),
        # Mounts and their most (-1: no limit), magic, clean, on errors: go on.
        (0x34, "HHHHHH", 0, 0xFFFF, 0xEF53, 1, 1, 0),
        (0x40, "IIIIHH", epoch, 0, 0, 1, 0, 0),
        (0x54, "IHH", FIRST_INODE, INODE_SIZE, 0),
        (0x5C, "III", _COMPAT | (_HAS_JOURNAL if journal[0] else 0), _INCOMPAT,
         _RO_COMPAT | (_METADATA_CSUM if seed else 0)),
        (0x68, "16s16s", parameters.uuid.bytes, parameters.label.encode()),
        (0xCE, "H", geometry.reserved_descriptors),
        (0xE0, "I", JOURNAL_INODE if journal[0] else 0),
        # Hash of directories: half MD4, with signed characters (0x160).
        (0xEC, "16sBBH", parameters.hash_seed.bytes, 1, 1 if journal[0] else 0, DESCRIPTOR),
        (0x100, "III", 0xC, 0, epoch),  # user_xattr and acl
        (0x150, "III", blocks >> 32, reserved >> 32, free_blocks >> 32),
        (0x15C, "HHI", 32, 32, 0x1),
        (0x174, "BB", 4, 1 if seed else 0),  # log2 of FLEX; crc32c
        (0x274, "BBBB", high, 0, high, high),
    )  # fmt: skip
    for offset, form, *values in fields:
        struct.pack_into("<" + form, raw, offset, *values)
    if journal[0]:
        struct.pack_into("<60sII", raw, 0x10C, journal[1], journal[0] >> 32,
                         journal[0] & 0xFFFFFFFF)  # fmt: skip
    return bytes(raw)


def sealed_superblock(raw: bytes, group: int, *, checksums: bool) -> bytes:
    """The superblock as it lies in a group."""
    raw = raw[:0x5A] + group.to_bytes(2, "little") + raw[0x5C:0x3FC]
    return raw + (crc(raw).to_bytes(4, "little") if checksums else bytes(4))


def descriptor(geometry: Geometry, number: int, group: Group, seed: int | None) -> bytes:
    """A group's descriptor."""
    places = geometry.tables(number)
    sums = [0, 0]
    if seed is not None:
        inode_bytes = geometry.inodes_a_group // 8
        sums = [crc(group.bitmaps[0], seed), crc(group.bitmaps[1][:inode_bytes], seed)]
    counts = (group.free_blocks, group.free_inodes, group.directories)
    unused = group.unused_inodes if seed is not None else 0
    raw = struct.pack(
        "<IIIHHHHIHHHHIIIHHHHIHHI",
        *(place & 0xFFFFFFFF for place in places),
        *(count & 0xFFFF for count in counts),
        _INODE_ZEROED if seed is not None else 0,
        0,
        *(value & 0xFFFF for value in sums),
        unused & 0xFFFF,
        0,
        *(place >> 32 for place in places),
        *(count >> 16 for count in counts),
        unused >> 16,
        0,
        *(value >> 16 for value in sums),
        0,
    )
    if seed is None:
        return raw
    value = crc(raw, crc(number.to_bytes(4, "little"), seed)) & 0xFFFF
    return raw[:0x1E] + value.to_bytes(2, "little") + raw[0x20:]


def journal_superblock(parameters: Parameters, blocks: int) -> bytes:
    """The first block of an empty journal."""
    head = struct.pack(">IIIIIIII", _JOURNAL_MAGIC, 4, 0, BLOCK, blocks, 1, 1, 0)
    features = struct.pack(">IIII16sI", 0, 0, 0, 0, parameters.uuid.bytes, 1)
    return (head + features).ljust(BLOCK, b"\0")


def resize_blocks(geometry: Geometry, double: int) -> tuple[list[tuple[int, bytes]], int]:
    """((block, content) of the resize inode's map, how many blocks belong to the inode).

    double: the block of its own that it has; the others are the reserved descriptor blocks.
    """
    first = 1 + geometry.descriptor_blocks
    pointers = [0] * _POINTERS
    written = []
    for index in range(geometry.reserved_descriptors):
        block = first + index
        pointers[(geometry.descriptor_blocks + index) % _POINTERS] = block
        copies = [block + group * GROUP_BLOCKS for group in geometry.backups]
        written.append((block, struct.pack(f"<{len(copies)}I", *copies).ljust(BLOCK, b"\0")))
    written.append((double, struct.pack(f"<{_POINTERS}I", *pointers)))
    return written, 1 + geometry.reserved_descriptors * (1 + len(geometry.backups))


def resize_size() -> int:
    """Bytes that the resize inode says it has: all that a double indirect block reaches."""
    return (_POINTERS * _POINTERS + _POINTERS + 12) * BLOCK
