"""Read ext2, ext3 and ext4 in a file: inodes, directories, content, extended attributes.

Everything is bounded: a damaged or hostile file system costs an error, never memory or time.
Offsets are those of "Data Structures and Algorithms" in the Linux kernel's documentation of ext4
(Documentation/filesystems/ext4/). Checksums are not verified here: e2fsck(8) does, before and
after.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pipeline.errors import DiskError
from pipeline.guest import Kind, Status

MAGIC = 0xEF53
ROOT_INODE = 2
STATE_CLEAN = 0x1  # the only bit of s_state that a clean file system has
DIRECTORY, REGULAR = 0x4000, 0x8000  # Inode.type
_EXTENTS_FLAG = 0x80000
_ODD_FLAGS = {0x800: "encrypted", 0x10000000: "inline data"}
_EXTENT_MAGIC = 0xF30A
_XATTR_MAGIC = 0xEA020000
_MAX_DEPTH = 5  # of an extent tree
_MAX_DIRECTORY = 32 << 20  # bytes; some 500,000 entries
_CHUNK = 1 << 20
_UNWRITTEN = 0x8000  # extent lengths above it are allocated but unwritten: they read as zeros
_KINDS: dict[int, Kind] = {DIRECTORY: "directory", REGULAR: "file", 0xA000: "symlink"}
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}


@dataclass(frozen=True)
class Superblock:
    """The fields of a superblock that reading and safety depend on. Sizes in bytes."""

    block_size: int
    blocks: int
    first_block: int
    inodes: int
    inodes_per_group: int
    inode_size: int
    descriptor_size: int
    state: int
    errors: int
    last_orphan: int
    compat: int
    incompat: int
    ro_compat: int
    uuid: str
    label: str
    free_blocks: int = 0

    @property
    def size(self) -> int:
        """Size of the file system."""
        return self.blocks * self.block_size

    @property
    def used(self) -> int:
        """What its own count says is taken, metadata included."""
        return max(self.blocks - self.free_blocks, 0) * self.block_size


@dataclass(frozen=True)
class Inode:
    """One inode. raw: all its bytes."""

    number: int
    raw: bytes

    @property
    def type(self) -> int:
        """The four type bits of the mode."""
        return self._u16(0) & 0xF000

    @property
    def size(self) -> int:
        """Content length in bytes."""
        low, high = self._u32(0x4), self._u32(0x6C)
        return low | (high << 32) if self.type in (REGULAR, DIRECTORY) else low

    @property
    def flags(self) -> int:
        """EXT4_*_FL."""
        return self._u32(0x20)

    @property
    def attribute_block(self) -> int:
        """Block of further extended attributes; 0 for none."""
        return self._u32(0x68) | (self._u16(0x76) << 32)

    @property
    def map(self) -> bytes:
        """i_block: extents, block numbers or a short link's target."""
        return self.raw[0x28:0x64]

    def status(self) -> Status:
        """The inode as lstat(2) shows it."""
        return Status(
            _KINDS.get(self.type, "other"),
            self._u16(0) & 0o7777,
            self._u16(0x2) | (self._u16(0x78) << 16),
            self._u16(0x18) | (self._u16(0x7A) << 16),
            self.size,
        )

    def _u16(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 2], "little")

    def _u32(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 4], "little")


def read_superblock(descriptor: int, path: Path) -> Superblock:
    """The primary superblock, checked for figures that could not be."""
    raw = os.pread(descriptor, 1024, 1024)

    def u32(offset: int) -> int:
        return int(struct.unpack_from("<I", raw, offset)[0])

    def u16(offset: int) -> int:
        return int(struct.unpack_from("<H", raw, offset)[0])

    if len(raw) < 1024 or u16(0x38) != MAGIC:
        raise _broken(path, "there is no ext superblock")
    incompat = u32(0x60)
    wide = bool(incompat & 0x80)
    dynamic = u32(0x4C) >= 1
    if u32(0x18) > 6:
        raise _broken(path, "its block size is impossible")
    superblock = Superblock(
        block_size=1024 << u32(0x18),
        blocks=u32(0x4) | (u32(0x150) << 32 if wide else 0),
        first_block=u32(0x14),
        inodes=u32(0x0),
        inodes_per_group=u32(0x28),
        inode_size=u16(0x58) if dynamic else 128,
        descriptor_size=u16(0xFE) if wide else 32,
        state=u16(0x3A),
        errors=u32(0x194),
        last_orphan=u32(0xE8),
        compat=u32(0x5C),
        incompat=incompat,
        ro_compat=u32(0x64),
        uuid=str(UUID(bytes=raw[0x68:0x78])),
        label=raw[0x78:0x88].split(b"\0")[0].decode(errors="replace"),
        free_blocks=u32(0xC) | (u32(0x158) << 32 if wide else 0),
    )
    if (
        not 128 <= superblock.inode_size <= superblock.block_size
        or not superblock.inodes_per_group
        or not 32 <= superblock.descriptor_size <= 1024
    ):
        raise _broken(path, "its superblock's figures are impossible")
    return superblock


class Reader:
    """An ext file system in a file, opened for reading; a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.superblock = read_superblock(self._descriptor, path)
        except BaseException:
            os.close(self._descriptor)
            raise
        self._directories: dict[int, dict[bytes, int]] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def reload(self) -> None:
        """Forget what was read: somebody edited the file."""
        self._directories.clear()
        self.superblock = read_superblock(self._descriptor, self._path)

    def find(self, path: bytes) -> Inode | None:
        """The inode of an absolute path, component by component, no link followed."""
        inode = self.inode(ROOT_INODE)
        for name in path.split(b"/"):
            if name:
                if inode.type != DIRECTORY:
                    return None
                number = self.directory(inode).get(name)
                if number is None:
                    return None
                inode = self.inode(number)
        return inode

    def inode(self, number: int) -> Inode:
        """Inode `number`, from 1."""
        superblock = self.superblock
        if not 1 <= number <= superblock.inodes:
            raise _broken(self._path, f"inode {number} is outside of it")
        group, index = divmod(number - 1, superblock.inodes_per_group)
        table = (superblock.first_block + 1) * superblock.block_size
        descriptor = self._at(
            table + group * superblock.descriptor_size, superblock.descriptor_size
        )
        block = int.from_bytes(descriptor[0x8:0xC], "little")
        if superblock.descriptor_size >= 64:
            block |= int.from_bytes(descriptor[0x28:0x2C], "little") << 32
        offset = block * superblock.block_size + index * superblock.inode_size
        inode = Inode(number, self._at(offset, superblock.inode_size))
        odd = next((word for flag, word in _ODD_FLAGS.items() if inode.flags & flag), None)
        if odd:
            raise _broken(self._path, f"inode {number} uses {odd}, which is not supported here")
        return inode

    def directory(self, inode: Inode) -> dict[bytes, int]:
        """Names and inode numbers of a directory, without "." and ".."."""
        known = self._directories.get(inode.number)
        if known is not None:
            return known
        entries: dict[bytes, int] = {}
        content = self.content(inode, _MAX_DIRECTORY)
        step = self.superblock.block_size
        for start in range(0, len(content), step):
            offset, end = start, min(start + step, len(content))
            # An index block's fake entry spans its block, so hashed directories read the same.
            while offset + 8 <= end:
                number, length, name_length = struct.unpack_from("<IHB", content, offset)
                if length < 8 or offset + length > end or 8 + name_length > length:
                    raise _broken(self._path, f"directory inode {inode.number} is damaged")
                name = content[offset + 8 : offset + 8 + name_length]
                if number and name not in (b".", b".."):
                    entries[name] = number
                offset += length
        self._directories[inode.number] = entries
        return entries

    def content(self, inode: Inode, limit: int) -> bytes:
        """All of an inode's content; DiskError above `limit` bytes."""
        if inode.size > limit:
            raise _broken(self._path, f"inode {inode.number} has {inode.size} bytes")
        content = bytearray(inode.size)
        for offset, data in self.chunks(inode):
            content[offset : offset + len(data)] = data
        return bytes(content)

    def chunks(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of all that is not a hole, in at most 1 MiB pieces, in order."""
        step = self.superblock.block_size
        end = 0
        for logical, physical, count in self._extents(inode):
            if logical < end or physical + count > self.superblock.blocks:
                raise _broken(self._path, f"the block map of inode {inode.number} is damaged")
            end = logical + count
            position, left = logical * step, count * step
            left = min(left, inode.size - position)
            source = physical * step
            while left > 0:
                size = min(left, _CHUNK)
                yield position, self._at(source, size)
                position, source, left = position + size, source + size, left - size

    def link_target(self, inode: Inode) -> bytes:
        """The target of a symbolic link."""
        if inode.size < 60 and not inode.flags & _EXTENTS_FLAG:
            return inode.map[: inode.size]
        return self.content(inode, 4096)

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """Extended attributes by full name; POSIX ACLs in the file system's own encoding."""
        found: dict[str, bytes] = {}
        if self.superblock.inode_size > 128:
            start = 128 + int.from_bytes(inode.raw[0x80:0x82], "little")
            area = inode.raw[start:]
            if area[:4] == _XATTR_MAGIC.to_bytes(4, "little"):
                # Offsets in the inode count from the first entry.
                found |= self._entries(inode.number, area[4:], 0)
        if inode.attribute_block:
            step = self.superblock.block_size
            block = self._at(inode.attribute_block * step, step)
            if block[:4] != _XATTR_MAGIC.to_bytes(4, "little"):
                raise _broken(self._path, f"the attributes of inode {inode.number} are damaged")
            found |= self._entries(inode.number, block, 32)
        return found

    def _entries(self, number: int, area: bytes, offset: int) -> Iterator[tuple[str, bytes]]:
        while area[offset : offset + 4].ljust(4, b"\0") != bytes(4):
            if offset + 16 > len(area):
                raise _broken(self._path, f"the attributes of inode {number} are damaged")
            name_length, index, start, inum, size, _ = struct.unpack_from("<BBHIII", area, offset)
            name = area[offset + 16 : offset + 16 + name_length]
            value = area[start : start + size]
            if len(name) != name_length or len(value) != size or inum:
                raise _broken(self._path, f"the attributes of inode {number} are damaged")
            prefix = _XATTR_PREFIXES.get(index, f"unknown{index}.")
            yield prefix + name.decode(errors="surrogateescape"), value
            offset += 16 + (name_length + 3) // 4 * 4

    def _extents(self, inode: Inode) -> Iterator[tuple[int, int, int]]:
        """(logical block, physical block, count) of written extents."""
        if inode.flags & _EXTENTS_FLAG:
            yield from self._tree(inode.number, inode.map, _MAX_DEPTH, set())
            return
        seen: set[int] = set()
        step = self.superblock.block_size
        last = -(-inode.size // step)
        direct = struct.unpack_from("<12I", inode.map)
        for logical, physical in enumerate(direct):
            if physical and logical < last:
                yield logical, physical, 1
        logical = 12
        for level, offset in ((1, 48), (2, 52), (3, 56)):
            pointer = int.from_bytes(inode.map[offset : offset + 4], "little")
            span = (step // 4) ** level
            if pointer and logical < last:
                yield from self._indirect(pointer, level, logical, last, seen)
            logical += span

    def _indirect(
        self, pointer: int, level: int, logical: int, last: int, seen: set[int]
    ) -> Iterator[tuple[int, int, int]]:
        if level == 0:
            yield logical, pointer, 1
            return
        step = self.superblock.block_size
        span = (step // 4) ** (level - 1)
        for below in struct.unpack(f"<{step // 4}I", self._node(pointer, seen)):
            if logical >= last:
                return
            if below:
                yield from self._indirect(below, level - 1, logical, last, seen)
            logical += span

    def _tree(
        self, number: int, node: bytes, depth_left: int, seen: set[int]
    ) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth = struct.unpack_from("<HHHH", node)
        if magic != _EXTENT_MAGIC or depth > depth_left or 12 + 12 * entries > len(node):
            raise _broken(self._path, f"the extent tree of inode {number} is damaged")
        for index in range(entries):
            entry = node[12 + 12 * index : 24 + 12 * index]
            if depth:
                _, low, high = struct.unpack_from("<IIH", entry)
                child = self._node(low | (high << 32), seen)
                yield from self._tree(number, child, depth - 1, seen)
                continue
            logical, count, high, low = struct.unpack("<IHHI", entry)
            if count <= _UNWRITTEN:
                yield logical, low | (high << 32), count

    def _node(self, block: int, seen: set[int]) -> bytes:
        """A block of a map, once only: a map that comes back to a block has no end."""
        if block in seen:
            raise _broken(self._path, f"block {block} is twice in one file's map")
        seen.add(block)
        return self._at(block * self.superblock.block_size, self.superblock.block_size)

    def _at(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise _broken(self._path, "it refers to blocks outside of it")
        return data


def _broken(path: Path, why: str) -> DiskError:
    return DiskError(
        "read the ext file system in",
        path,
        why=why,
        next_step="Run `e2fsck -f` on the file to see what is wrong with it",
    )
