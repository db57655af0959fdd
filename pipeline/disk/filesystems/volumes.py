"""The file systems an inventory is taken of, as `tree.Volume`s over the project's readers."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from pipeline.disk.blocks.source import RawFile
from pipeline.disk.filesystems.ext_inodes import ROOT_INODE, Inode, Reader
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.disk.filesystems.walk import Facts, Volume
from pipeline.disk.filesystems.xfs import Xfs

_SECTOR = 512  # ext's i_blocks counts these (Linux, Documentation/filesystems/ext4/inodes.rst)
_HUGE_FILE = 0x40000  # inode flag: i_blocks counts file system blocks
_FORMATS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
}


@contextmanager
def open_ext(path: Path) -> Iterator[Volume]:
    """An ext file system in a file."""
    with Reader(path) as reader:
        yield _Ext(reader)


@contextmanager
def open_xfs(path: Path) -> Iterator[Volume]:
    """An XFS file system in a file."""
    with RawFile(path) as source:
        yield _Xfs(Xfs(source))


class _Ext:
    root = ROOT_INODE

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.size, self.used = reader.superblock.size, reader.superblock.used
        # The walk asks for an inode's facts, then for its data: it is read once.
        self._inode = lru_cache(maxsize=64)(reader.inode)

    def facts(self, number: int) -> Facts:
        inode = self._inode(number)
        return Facts(inode.status(), self._allocated(inode))

    def names(self, number: int) -> dict[bytes, int]:
        return self._reader.directory(self._inode(number))

    def pieces(self, number: int) -> Iterator[bytes]:
        return (data for _, data in self._reader.chunks(self._inode(number)))

    def content(self, number: int, limit: int) -> bytes:
        inode = self._inode(number)
        if inode.status().kind == "symlink":
            return self._reader.link_target(inode)
        return self._reader.content(inode, limit)

    def _allocated(self, inode: Inode) -> int:
        raw = inode.raw
        count = int.from_bytes(raw[0x1C:0x20], "little")
        count |= int.from_bytes(raw[0x74:0x76], "little") << 32
        huge = inode.flags & _HUGE_FILE
        return count * (self._reader.superblock.block_size if huge else _SECTOR)


class _Xfs:
    def __init__(self, reader: Xfs) -> None:
        self._reader = reader
        self.root, self.size, self.used = reader.root, reader.size, reader.used
        self._inode = lru_cache(maxsize=64)(reader.inode)

    def facts(self, number: int) -> Facts:
        inode = self._inode(number)
        kind = _FORMATS.get(stat.S_IFMT(inode.mode), "other")
        mode = stat.S_IMODE(inode.mode)
        return Facts(Status(kind, mode, inode.uid, inode.gid, inode.size), inode.allocated)

    def names(self, number: int) -> dict[bytes, int]:
        return self._reader.entries(self._inode(number))

    def pieces(self, number: int) -> Iterator[bytes]:
        return self._reader.pieces(self._inode(number))

    def content(self, number: int, limit: int) -> bytes:
        return self._reader.content(self._inode(number), limit)
