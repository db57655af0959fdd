"""An ext file system in a file as an editor sees it: owners, extended attributes, content.

Finding inodes, directories and blocks is `ext`'s. Everything is bounded: a damaged or hostile
file system costs an error, never memory or time. Offsets are those of the Linux
kernel's documentation of ext4 (Documentation/filesystems/ext4). Checksums are not verified here:
e2fsck(8) does, before and after.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems import lookup
from pipeline.disk.filesystems.ext import ROOT_INODE, Ext, Layout, parsed_inode
from pipeline.disk.filesystems.status import Kind, Status

__all__ = ["ROOT_INODE", "STATE_CLEAN", "Inode", "Reader", "Superblock"]

STATE_CLEAN = 0x1  # the only bit of s_state that a clean file system has
_XATTR_MAGIC = (0xEA020000).to_bytes(4, "little")
_CHUNK = 1 << 20
_MAX_LINK = 4096  # bytes of a link's target, PATH_MAX
_KINDS: dict[int, Kind] = {0x4000: "directory", 0x8000: "file", 0xA000: "symlink"}
_XATTR_PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
}


class Superblock(Layout):
    """The figures that say what is inside and in which state. Sizes in bytes."""

    @property
    def size(self) -> int:
        """Size of the file system."""
        return self.blocks * self.block_size

    @property
    def used(self) -> int:
        """What its own count says is taken, metadata included."""
        return max(self.blocks - self.free_blocks, 0) * self.block_size

    @property
    def state(self) -> int:
        """s_state."""
        return self.u16(0x3A)

    @property
    def errors(self) -> int:
        """How many errors the kernel found in it."""
        return self.u32(0x194)

    @property
    def last_orphan(self) -> int:
        """First inode that was deleted while open and not freed yet."""
        return self.u32(0xE8)

    @property
    def uuid(self) -> str:
        """Lower case, as blkid prints it."""
        return str(UUID(bytes=self.raw[0x68:0x78]))

    @property
    def label(self) -> str:
        """s_volume_name."""
        return self.raw[0x78:0x88].split(b"\0")[0].decode(errors="replace")


@dataclass(frozen=True)
class Inode(lookup.Inode):
    """One inode. raw: all its bytes."""

    raw: bytes = b""

    @property
    def attribute_block(self) -> int:
        """Block of further extended attributes; 0 for none."""
        return self._u32(0x68) | (self._u16(0x76) << 32)

    def status(self) -> Status:
        """The inode as lstat(2) shows it."""
        return Status(
            _KINDS.get(self.mode & 0xF000, "other"),
            self.mode & 0o7777,
            self._u16(0x2) | (self._u16(0x78) << 16),
            self._u16(0x18) | (self._u16(0x7A) << 16),
            self.size,
        )

    def _u16(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 2], "little")

    def _u32(self, offset: int) -> int:
        return int.from_bytes(self.raw[offset : offset + 4], "little")


class Reader(Ext):
    """An ext file system in a file, opened for reading; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = RawFile(path)
        try:
            super().__init__(self._file)
        except BaseException:
            self._file.close()
            raise
        self.superblock = Superblock(self.layout.raw)
        self._directories: dict[int, dict[bytes, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def reload(self) -> None:
        """Forget what was read: somebody edited the file."""
        self._directories.clear()
        super().__init__(self._file)
        self.superblock = Superblock(self.layout.raw)

    def find(self, path: bytes) -> Inode | None:
        """The inode of an absolute path, component by component, no link followed."""
        inode = self.inode(ROOT_INODE)
        for name in path.split(b"/"):
            if name:
                if inode.status().kind != "directory":
                    return None
                number = self.directory(inode).get(name)
                if number is None:
                    return None
                inode = self.inode(number)
        return inode

    def inode(self, number: int) -> Inode:
        """Inode `number`, from 1."""
        raw = self.raw_inode(number)
        found = parsed_inode(number, raw)
        return Inode(number, found.mode, found.size, found.map, found.flags, raw=raw)

    def directory(self, inode: Inode) -> dict[bytes, int]:
        """Names and inode numbers of a directory, without "." and ".."."""
        if inode.number not in self._directories:
            self._directories[inode.number] = self.entries(inode)
        return self._directories[inode.number]

    def chunks(self, inode: Inode) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of all that is not a hole, in at most 1 MiB pieces, in order."""
        step = self.layout.block_size
        for logical, physical, count in self.extents(inode):
            position, source = logical * step, physical * step
            left = min(count * step, inode.size - position)
            while left > 0:
                size = min(left, _CHUNK)
                yield position, self.source.read(source, size)
                position, source, left = position + size, source + size, left - size

    def link_target(self, inode: Inode) -> bytes:
        """The target of a symbolic link."""
        return self.content(inode, _MAX_LINK)

    def xattrs(self, inode: Inode) -> dict[str, bytes]:
        """Extended attributes by full name; POSIX ACLs in the file system's own encoding."""
        found: dict[str, bytes] = {}
        if self.layout.inode_size > 128:
            area = inode.raw[128 + int.from_bytes(inode.raw[0x80:0x82], "little") :]
            if area[:4] == _XATTR_MAGIC:
                # Offsets in the inode count from the first entry.
                found |= self._attributes(inode.number, area[4:], 0)
        if inode.attribute_block:
            block = self.block(inode.attribute_block)
            if block[:4] != _XATTR_MAGIC:
                raise self.broken(f"the attributes of inode {inode.number} are damaged")
            found |= self._attributes(inode.number, block, 32)
        return found

    def _attributes(self, number: int, area: bytes, offset: int) -> Iterator[tuple[str, bytes]]:
        while area[offset : offset + 4].ljust(4, b"\0") != bytes(4):
            if offset + 16 > len(area):
                raise self.broken(f"the attributes of inode {number} are damaged")
            name_length, index, start, inum, size, _ = struct.unpack_from("<BBHIII", area, offset)
            name = area[offset + 16 : offset + 16 + name_length]
            value = area[start : start + size]
            if len(name) != name_length or len(value) != size or inum:
                raise self.broken(f"the attributes of inode {number} are damaged")
            prefix = _XATTR_PREFIXES.get(index, f"unknown{index}.")
            yield prefix + name.decode(errors="surrogateescape"), value
            offset += 16 + (name_length + 3) // 4 * 4
