"""Read ext2, ext3 and ext4 from any source: superblock, group descriptors, directories, files.

Offsets are those of the kernel's documentation (Documentation/filesystems/ext4). The journal is
not replayed: what a dirty file system shows may be a little old.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Source
from pipeline.disk.filesystems.lookup import Inode

ROOT_INODE, JOURNAL_INODE = 2, 8
_EXTENTS, _INLINE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC = 0xF30A
_MAX_DEPTH = 5
_UNWRITTEN = 0x8000
_MAX_DIRECTORY = 32 << 20  # bytes: half a million names, more than any directory looked into has


@dataclass(frozen=True)
class Layout:
    """The figures of a superblock that say where things are. raw: all its 1024 bytes."""

    raw: bytes

    def u16(self, offset: int) -> int:
        """Little-endian field of two bytes."""
        return int.from_bytes(self.raw[offset : offset + 2], "little")

    def u32(self, offset: int) -> int:
        """Little-endian field of four bytes."""
        return int.from_bytes(self.raw[offset : offset + 4], "little")

    @cached_property
    def compat(self) -> int:
        """s_feature_compat."""
        return self.u32(0x5C)

    @cached_property
    def incompat(self) -> int:
        """s_feature_incompat."""
        return self.u32(0x60)

    @cached_property
    def ro_compat(self) -> int:
        """s_feature_ro_compat."""
        return self.u32(0x64)

    @cached_property
    def block_size(self) -> int:
        """Bytes, 1024 to 65536."""
        return 1024 << self.u32(0x18)

    @cached_property
    def blocks(self) -> int:
        """Blocks of the file system."""
        return self.u32(0x4) | (self.u32(0x150) << 32 if self.incompat & 0x80 else 0)

    @cached_property
    def free_blocks(self) -> int:
        """What the superblock counts as free."""
        return self.u32(0xC) | (self.u32(0x158) << 32 if self.incompat & 0x80 else 0)

    @cached_property
    def first_block(self) -> int:
        """s_first_data_block: 1 when blocks have 1024 bytes, else (and with bigalloc) 0."""
        return self.u32(0x14)

    @cached_property
    def blocks_per_group(self) -> int:
        """At most eight times the block size."""
        return self.u32(0x20)

    @cached_property
    def inodes_per_group(self) -> int:
        """s_inodes_per_group."""
        return self.u32(0x28)

    @cached_property
    def inode_size(self) -> int:
        """Bytes."""
        return self.u16(0x58) if self.u32(0x4C) else 128

    @cached_property
    def descriptor_size(self) -> int:
        """Bytes of a group descriptor."""
        return self.u16(0xFE) if self.incompat & 0x80 else 32

    @cached_property
    def groups(self) -> int:
        """Number of block groups."""
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    @cached_property
    def table_blocks(self) -> int:
        """Blocks of a group's inode table."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)


@dataclass(frozen=True)
class Group:
    """A group descriptor. Block numbers; raw: all its bytes."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    flags: int
    checksum: int
    raw: bytes


class Ext:
    """An ext file system in a source; a Reader."""

    root = ROOT_INODE

    def __init__(self, source: Source) -> None:
        self.source = source
        if source.size < 2048:
            raise self.broken("it is too small")
        self.layout = layout = Layout(source.read(1024, 1024))
        if layout.u16(0x38) != 0xEF53 or layout.u32(0x18) > 6:
            raise self.broken("its superblock is not one")
        if (
            not 128 <= layout.inode_size <= layout.block_size
            or layout.inode_size & (layout.inode_size - 1)
            or not 32 <= layout.descriptor_size <= 1024
            or layout.descriptor_size % 8
            or layout.blocks_per_group < 8
            or not 8 <= layout.u32(0x24) <= 8 * layout.block_size  # clusters; blocks as a rule
            or (layout.u32(0x24) != layout.blocks_per_group and not layout.ro_compat & 0x200)
            or not 0 < layout.inodes_per_group <= 8 * layout.block_size
            or layout.first_block > (1 if layout.block_size == 1024 else 0)
            or layout.blocks <= layout.first_block
        ):
            raise self.broken("its superblock's figures are impossible")
        if layout.blocks * layout.block_size > source.size:
            raise self.broken(
                f"it says that it has {layout.blocks * layout.block_size} bytes, "
                f"but the volume has {source.size}"
            )

    def broken(self, why: str) -> DiskError:
        """The error for this file system."""
        return DiskError(
            "read the ext file system of",
            self.source.name,
            why=why,
            next_step="Run `e2fsck -fn` on it to see what is wrong",
        )

    def block(self, number: int, count: int = 1) -> bytes:
        """`count` blocks; DiskError outside of the file system."""
        if not 0 <= number <= self.layout.blocks - count:
            raise self.broken(f"it refers to block {number}, which it does not have")
        return self.source.read(number * self.layout.block_size, count * self.layout.block_size)

    def groups(self, first: int = 0, count: int | None = None) -> Iterator[Group]:
        """Group descriptors from number `first`. Not for file systems with meta_bg."""
        layout = self.layout
        size = layout.descriptor_size
        last = layout.groups if count is None else first + count
        table = max(2048, layout.block_size)  # the block after the superblock's
        step = max(1, (1 << 16) // size)
        for start in range(first, last, step):
            stop = min(last, start + step)
            raw = self.source.read(table + start * size, (stop - start) * size)
            for offset in range(0, len(raw), size):
                yield _group(raw[offset : offset + size])

    def raw_inode(self, number: int) -> bytes:
        """All bytes of an inode."""
        layout = self.layout
        group, index = divmod(number - 1, layout.inodes_per_group)
        if not (0 <= group < layout.groups) or layout.incompat & 0x10:
            raise self.broken(f"inode {number} cannot be found")
        table = next(self.groups(group, 1)).inode_table
        block, offset = divmod(index * layout.inode_size, layout.block_size)
        return self.block(table + block)[offset : offset + layout.inode_size]

    def inode(self, number: int) -> Inode:
        """See Reader."""
        return parsed_inode(number, self.raw_inode(number))

    def entries(self, directory: Inode) -> dict[bytes, int]:
        """See Reader. Hashed directories read the same: an index block shows as one free entry."""
        raw = self.content(directory, _MAX_DIRECTORY)
        found: dict[bytes, int] = {}
        step = self.layout.block_size
        for start in range(0, len(raw), step):
            offset, end = start, min(start + step, len(raw))
            while offset + 8 <= end:
                number, length, name_length = struct.unpack_from("<IHB", raw, offset)
                if length < 8 or offset + length > end or 8 + name_length > length:
                    raise self.broken(f"the directory in inode {directory.number} is damaged")
                name = raw[offset + 8 : offset + 8 + name_length]
                if number and name not in (b".", b".."):
                    found[name] = number
                offset += length
        return found

    def content(self, inode: Inode, limit: int) -> bytes:
        """See Reader."""
        if inode.size > limit:
            raise self.broken(f"inode {inode.number} has {inode.size} bytes, more than expected")
        if inode.flags & (_INLINE | _ENCRYPTED):
            kind = "encrypted" if inode.flags & _ENCRYPTED else "inline"
            raise self.broken(f"inode {inode.number} has {kind} data, which is not supported")
        if stat.S_ISLNK(inode.mode) and inode.size < 60 and not inode.flags & _EXTENTS:
            return inode.map[: inode.size]
        size = self.layout.block_size
        content = bytearray(inode.size)
        for logical, physical, count in self.extents(inode):
            start = logical * size
            wanted = min(count * size, inode.size - start)
            if wanted > 0:
                blocks = -(-wanted // size)
                content[start : start + wanted] = self.block(physical, blocks)[:wanted]
        return bytes(content)

    def extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """(logical block, physical block, count) of what is written of a file, in order.

        DiskError for maps that run backwards, in a circle or through a block twice.
        """
        expected = 0
        seen: set[int] = set()
        if inode.flags & _EXTENTS:
            found = self._tree(inode.map, _MAX_DEPTH, seen)
        else:
            found = self._pointers(inode, seen)
        for logical, physical, count in found:
            if logical < expected or not count:
                raise self.broken(f"the block map of inode {inode.number} is damaged")
            expected = logical + count
            yield logical, physical, count

    def _node(self, number: int, seen: set[int]) -> bytes:
        """A block of a map. Empty nodes that share their children would multiply without end."""
        if number in seen:
            raise self.broken(f"block {number} is twice in one block map")
        seen.add(number)
        return self.block(number)

    def _tree(self, node: bytes, depth_left: int, seen: set[int]) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or depth > depth_left or 12 + 12 * entries > len(node):
            raise self.broken("an extent tree is damaged")
        for offset in range(12, 12 + 12 * entries, 12):
            if depth:
                low, high = struct.unpack_from("<IH", node, offset + 4)
                yield from self._tree(self._node(low | high << 32, seen), depth - 1, seen)
                continue
            logical, count, high, low = struct.unpack_from("<IHHI", node, offset)
            if count <= _UNWRITTEN:
                yield logical, low | high << 32, count

    def _pointers(self, inode: Inode, seen: set[int]) -> Iterator[tuple[int, int, int]]:
        last = -(-inode.size // self.layout.block_size)
        span = self.layout.block_size // 4
        yield from self._run(struct.unpack_from("<12I", inode.map), 0, last)
        logical = 12
        for level, pointer in enumerate(struct.unpack_from("<3I", inode.map, 48), 1):
            yield from self._indirect(pointer, level, logical, last, seen)
            logical += span**level

    def _indirect(
        self, pointer: int, level: int, logical: int, last: int, seen: set[int]
    ) -> Iterator[tuple[int, int, int]]:
        if not pointer or logical >= last:
            return
        span = self.layout.block_size // 4
        below = struct.unpack(f"<{span}I", self._node(pointer, seen))
        if level == 1:
            yield from self._run(below, logical, last)
            return
        for index, entry in enumerate(below):
            start = logical + index * span ** (level - 1)
            yield from self._indirect(entry, level - 1, start, last, seen)

    def _run(
        self, pointers: tuple[int, ...], logical: int, last: int
    ) -> Iterator[tuple[int, int, int]]:
        for index, pointer in enumerate(pointers[: max(0, last - logical)]):
            if pointer:
                yield logical + index, pointer, 1


def parsed_inode(number: int, raw: bytes) -> Inode:
    """The figures of an inode's own bytes."""
    mode = int.from_bytes(raw[:2], "little")
    size = int.from_bytes(raw[4:8], "little")
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        size |= int.from_bytes(raw[0x6C:0x70], "little") << 32
    return Inode(number, mode, size, raw[0x28:0x64], int.from_bytes(raw[0x20:0x24], "little"))


def _group(raw: bytes) -> Group:
    def number(low: int, high: int, width: int) -> int:
        value = int.from_bytes(raw[low : low + width], "little")
        if len(raw) >= 64:
            value |= int.from_bytes(raw[high : high + width], "little") << (8 * width)
        return value

    return Group(
        number(0x0, 0x20, 4),
        number(0x4, 0x24, 4),
        number(0x8, 0x28, 4),
        number(0xC, 0x2C, 2),
        int.from_bytes(raw[0x12:0x14], "little"),
        int.from_bytes(raw[0x1E:0x20], "little"),
        raw,
    )
