"""Which blocks of an ext file system are in use, where that is certain.

Copying used blocks alone is right only if the bitmaps are: the file system was unmounted cleanly,
its journal is empty, it has no feature that this module does not know, and every checksum and
count agrees. `check` proves that; whatever it cannot prove is copied whole.

Sources: the kernel's documentation of ext4 (features, bitmaps, lazy initialisation, checksums).
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator

from pipeline.core.errors import DiskError
from pipeline.disk.filesystems.checksums import crc16, crc32c
from pipeline.disk.filesystems.ext import JOURNAL_INODE, Ext, Group, Layout

_CLEAN = 1
_HAS_JOURNAL = 0x4  # compat
_KNOWN_COMPAT = 0x1 | 0x2 | _HAS_JOURNAL | 0x8 | 0x10 | 0x20 | 0x200 | 0x400 | 0x800 | 0x1000
_CSUM_SEED = 0x2000  # incompat
# filetype, extents, 64bit, flex_bg, ea_inode, csum_seed, largedir, inline_data, encrypt, casefold
_KNOWN_INCOMPAT = (
    0x2 | 0x40 | 0x80 | 0x200 | 0x400 | _CSUM_SEED | 0x4000 | 0x8000 | 0x10000 | 0x20000
)
_GDT_CSUM, _METADATA_CSUM = 0x10, 0x400  # ro_compat
# sparse_super, large_file, btree_dir, huge_file, dir_nlink, extra_isize, quota, read-only,
# project, verity
_KNOWN_RO_COMPAT = (
    0x1
    | 0x2
    | 0x4
    | 0x8
    | _GDT_CSUM
    | 0x20
    | 0x40
    | 0x100
    | _METADATA_CSUM
    | 0x1000
    | 0x2000
    | 0x8000
)
_NAMES = {
    ("incompat", 0x1): "compression",
    ("incompat", 0x4): "a journal to replay",
    ("incompat", 0x8): "the journal of another file system",
    ("incompat", 0x10): "meta_bg",
    ("incompat", 0x100): "multiple mount protection",
    ("incompat", 0x1000): "dirdata",
    ("ro_compat", 0x80): "snapshots",
    ("ro_compat", 0x200): "bigalloc",
    ("ro_compat", 0x4000): "shared blocks",
    ("ro_compat", 0x10000): "orphans",
}
_BLOCK_UNINIT = 0x2
_JOURNAL_MAGIC = 0xC03B3998


def unsafe_features(layout: Layout) -> str:
    """Why the bitmaps must not be relied on, by the superblock alone; "" if they may be."""
    for kind, value, known in (
        ("compat", layout.compat, _KNOWN_COMPAT),
        ("incompat", layout.incompat, _KNOWN_INCOMPAT),
        ("ro_compat", layout.ro_compat, _KNOWN_RO_COMPAT),
    ):
        unknown = value & ~known
        if unknown:
            lowest = unknown & -unknown
            return f"it has {_NAMES.get((kind, lowest), f'the {kind} feature {lowest:#x}')}"
    if layout.u16(0x3A) != _CLEAN:
        return "it was not unmounted cleanly"
    if layout.u32(0x194):
        return "errors were recorded in it"
    if layout.u32(0xE8):
        return "it has orphans"
    if layout.ro_compat & _METADATA_CSUM and crc32c(layout.raw[:0x3FC]) != layout.u32(0x3FC):
        return "its superblock's checksum is wrong"
    if layout.block_size == 1024 and layout.first_block != 1:
        return "its groups do not begin at block 1"
    if layout.compat & _HAS_JOURNAL and layout.u32(0xE0) != JOURNAL_INODE:
        return "its journal lies elsewhere"
    return ""


def check(fs: Ext) -> str:
    """Why the bitmaps must not be relied on; "" when everything about them agrees."""
    reason = unsafe_features(fs.layout)
    if reason:
        return reason
    try:
        return _journal(fs) or _groups(fs)
    except DiskError as error:
        return error.why


def _journal(fs: Ext) -> str:
    """Why the journal is not empty: a cleared flag with a filled journal would still be replayed
    by e2fsck, over blocks that were never copied.
    """
    if not fs.layout.compat & _HAS_JOURNAL:
        return ""
    inode = fs.inode(JOURNAL_INODE)
    first = next(fs.extents(inode), None)
    if first is None or first[0] != 0:
        return "its journal has no beginning"
    header = fs.block(first[1])
    if int.from_bytes(header[:4], "big") != _JOURNAL_MAGIC:
        return "its journal is damaged"
    if int.from_bytes(header[0x1C:0x20], "big"):
        return "its journal is not empty"
    return ""


def _groups(fs: Ext) -> str:
    layout = fs.layout
    seed = _seed(layout)
    free = 0
    for number, group in enumerate(fs.groups()):
        if not _descriptor_right(layout, number, group, seed):
            return f"the checksum of group {number} is wrong"
        for block, count in (
            (group.block_bitmap, 1),
            (group.inode_bitmap, 1),
            (group.inode_table, layout.table_blocks),
        ):
            if not layout.first_block < block <= layout.blocks - count:
                return f"the metadata of group {number} lies outside of it"
        free += group.free_blocks
        if not _has_bitmap(layout, group):
            continue
        bitmap = fs.block(group.block_bitmap)
        if not _bitmap_right(layout, group, bitmap, seed):
            return f"the checksum of the block bitmap of group {number} is wrong"
        length = _group_length(layout, number)
        used = _bits(bitmap, length).count("1")
        if length - used != group.free_blocks:
            return f"the free blocks of group {number} are miscounted"
    return "" if free == layout.free_blocks else "its free blocks are miscounted"


def _seed(layout: Layout) -> int:
    if layout.incompat & _CSUM_SEED:
        return layout.u32(0x270)
    return crc32c(layout.raw[0x68:0x78])


def _descriptor_right(layout: Layout, number: int, group: Group, seed: int) -> bool:
    """Whether a group descriptor's checksum is right, or there is none."""
    prefix = number.to_bytes(4, "little")
    if layout.ro_compat & _METADATA_CSUM:
        value = crc32c(group.raw[:0x1E] + bytes(2) + group.raw[0x20:], crc32c(prefix, seed))
        return value & 0xFFFF == group.checksum
    if layout.ro_compat & _GDT_CSUM:
        return crc16(layout.raw[0x68:0x78] + prefix + group.raw[:0x1E] + group.raw[0x20:]) == (
            group.checksum
        )
    return True


def _bitmap_right(layout: Layout, group: Group, bitmap: bytes, seed: int) -> bool:
    if not layout.ro_compat & _METADATA_CSUM:
        return True
    value = crc32c(bitmap[: layout.blocks_per_group // 8], seed)
    stored = int.from_bytes(group.raw[0x18:0x1A], "little")
    if layout.descriptor_size >= 64:
        return value == stored | int.from_bytes(group.raw[0x38:0x3A], "little") << 16
    return value & 0xFFFF == stored


def _group_length(layout: Layout, number: int) -> int:
    start = layout.first_block + number * layout.blocks_per_group
    return min(layout.blocks_per_group, layout.blocks - start)


def _bits(bitmap: bytes, length: int) -> str:
    """The first `length` bits of a bitmap as "0" and "1", the first block first."""
    return f"{int.from_bytes(bitmap, 'little'):0{len(bitmap) * 8}b}"[::-1][:length]


class UsedRanges:
    """(offset, length) in bytes of every run of blocks in use, in rising order; after `check` only.

    Iterate as often as needed: each time reads the bitmaps anew, so that none are kept.
    """

    def __init__(self, fs: Ext) -> None:
        self._fs = fs

    def __iter__(self) -> Iterator[tuple[int, int]]:
        size = self._fs.layout.block_size
        begin, end = 0, 1  # block 0 holds the superblock, or the boot sector before it
        for first, last in heapq.merge(_bitmaps(self._fs), *_metadata(self._fs)):
            if first <= end:
                end = max(end, last)
            else:
                yield begin * size, (end - begin) * size
                begin, end = first, last
        yield begin * size, (end - begin) * size


def _bitmaps(fs: Ext) -> Iterator[tuple[int, int]]:
    """(first, end) of what the bitmaps say.

    A group whose bitmap was never written (BLOCK_UNINIT) holds metadata alone: backups of the
    superblock and the descriptors, and whatever tables the descriptors place in it.
    """
    layout = fs.layout
    for number, group in enumerate(fs.groups()):
        start = layout.first_block + number * layout.blocks_per_group
        length = _group_length(layout, number)
        if _has_bitmap(layout, group):
            for match in re.finditer("1+", _bits(fs.block(group.block_bitmap), length)):
                yield start + match.start(), start + match.end()
        elif layout.has_backup(number):
            yield start, start + min(length, _backup_blocks(layout))


def _metadata(fs: Ext) -> list[list[tuple[int, int]]]:
    """(first, end) of block bitmaps, inode bitmaps and inode tables; three lists, each sorted."""
    lists: list[list[tuple[int, int]]] = [[], [], []]
    for group in fs.groups():
        for found, first, count in (
            (lists[0], group.block_bitmap, 1),
            (lists[1], group.inode_bitmap, 1),
            (lists[2], group.inode_table, fs.layout.table_blocks),
        ):
            # With flex_bg those of neighbours touch, so that the lists stay short.
            if found and found[-1][1] == first:
                found[-1] = (found[-1][0], first + count)
            else:
                found.append((first, first + count))
    return [sorted(found) for found in lists]


def _has_bitmap(layout: Layout, group: Group) -> bool:
    """Whether a group's block bitmap was ever written."""
    lazy = layout.ro_compat & (_GDT_CSUM | _METADATA_CSUM)
    return not (group.flags & _BLOCK_UNINIT and lazy)


def _backup_blocks(layout: Layout) -> int:
    """Blocks of superblock, descriptors and the room kept for more of them."""
    descriptors = -(-layout.groups * layout.descriptor_size // layout.block_size)
    return 1 + descriptors + layout.u16(0xCE)
