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
META_BG = 0x10  # incompat
_XATTR_MAGIC = (0xEA020000).to_bytes(4, "little")
_INLINE_XATTR = 7, b"data"  # system.data
_EXTENTS, _INLINE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_EXTENT_MAGIC = 0xF30A
_MAX_DEPTH = 5
_UNWRITTEN = 0x8000
_IN_INODE = 60  # bytes of an inode's block map
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

    def has_backup(self, group: int) -> bool:
        """Whether a group begins with the superblock or a backup of it."""
        if group == 0:
            return True
        if self.compat & 0x200:  # sparse_super2
            return group in (self.u32(0x24C), self.u32(0x250))
        if not self.ro_compat & 0x1 or group == 1:  # sparse_super
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))


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
        """Group descriptors from number `first`."""
        layout = self.layout
        size = layout.descriptor_size
        last = layout.groups if count is None else first + count
        # A block of descriptors, of which each lies elsewhere with meta_bg; else as many as fit.
        step = layout.block_size // size if layout.incompat & META_BG else max(1, (1 << 16) // size)
        start = first
        while start < last:
            stop = min(last, (start // step + 1) * step)
            raw = self.source.read(self._descriptor(start), (stop - start) * size)
            for offset in range(0, len(raw), size):
                yield _group(raw[offset : offset + size])
            start = stop

    def _descriptor(self, group: int) -> int:
        """Byte at which a group's descriptor lies."""
        layout = self.layout
        size = layout.descriptor_size
        each = layout.block_size // size
        block, within = divmod(group, each)
        if not layout.incompat & META_BG or block < layout.u32(0x104):
            # The block after the superblock's.
            return max(2048, layout.block_size) + group * size
        # s_first_meta_bg and later: in the first of the groups that the block describes.
        leader = block * each
        place = layout.first_block + leader * layout.blocks_per_group + layout.has_backup(leader)
        return place * layout.block_size + within * size

    def raw_inode(self, number: int) -> bytes:
        """All bytes of an inode."""
        layout = self.layout
        group, index = divmod(number - 1, layout.inodes_per_group)
        if not (0 <= group < layout.groups):
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
        if directory.flags & _INLINE:
            # The parent's number, then entries; those in the attribute are a piece of their own.
            raw, rest = raw[4:_IN_INODE], raw[_IN_INODE:]
            found |= self._entries(directory, rest, max(1, len(rest)))
        return found | self._entries(directory, raw, step)

    def _entries(self, directory: Inode, raw: bytes, step: int) -> dict[bytes, int]:
        """The names in pieces of `step` bytes, which no entry crosses."""
        found: dict[bytes, int] = {}
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
        if inode.flags & _ENCRYPTED:
            raise self.broken(f"inode {inode.number} is encrypted, which is not supported")
        if inode.flags & _INLINE:
            return (inode.map + self._inline_rest(inode.number))[: inode.size]
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

    def _inline_rest(self, number: int) -> bytes:
        """What of inline data did not fit the block map: the attribute system.data."""
        raw = self.raw_inode(number)
        area = raw[128 + int.from_bytes(raw[0x80:0x82], "little") :]
        if area[:4] != _XATTR_MAGIC:
            return b""
        offset, area = 0, area[4:]
        while area[offset : offset + 4].ljust(4, b"\0") != bytes(4):
            if offset + 16 > len(area):
                raise self.broken(f"the attributes of inode {number} are damaged")
            length, index, start, _, size = struct.unpack_from("<BBHII", area, offset)
            if (index, area[offset + 16 : offset + 16 + length]) == _INLINE_XATTR:
                return area[start : start + size]
            offset += 16 + (length + 3) // 4 * 4
        return b""

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


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


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
