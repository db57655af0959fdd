"""Looking into a file system that nobody mounts: paths, links, small files. Read-only, bounded.

What a file system's reader must offer is the Reader protocol; ext.py and xfs.py do.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Protocol

_MAX_LINKS = 40  # Linux's own limit (path_resolution(7))


@dataclass(frozen=True)
class Inode:
    """One inode. mode as in stat(2); size in bytes; map: the reader's own business."""

    number: int
    mode: int
    size: int
    map: bytes
    flags: int = 0


class Reader(Protocol):
    """A file system's reader. DiskError for whatever is damaged or not supported."""

    root: int

    def inode(self, number: int) -> Inode:
        """One inode."""

    def entries(self, directory: Inode) -> dict[bytes, int]:
        """Names and inode numbers, without "." and ".."."""

    def content(self, inode: Inode, limit: int) -> bytes:
        """A file's or link's bytes; DiskError when there are more than `limit`."""


class Tree:
    """A file system by path. Links are followed inside it only; ".." stops at its top."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def find(self, path: str) -> Inode | None:
        """What a path from the top leads to, links followed; None if nothing is there."""
        todo = [part.encode() for part in reversed(path.split("/"))]
        trail = [self._reader.inode(self._reader.root)]
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                trail = trail[:-1] or trail
                continue
            if not stat.S_ISDIR(trail[-1].mode):
                return None
            number = self._reader.entries(trail[-1]).get(name)
            if number is None:
                return None
            inode = self._reader.inode(number)
            if not stat.S_ISLNK(inode.mode):
                trail.append(inode)
                continue
            links += 1
            if links > _MAX_LINKS:
                return None
            target = self._reader.content(inode, 4096)
            if target.startswith(b"/"):
                del trail[1:]
            todo += reversed(target.split(b"/"))
        return trail[-1]

    def is_directory(self, path: str) -> bool:
        """Whether a directory is there."""
        inode = self.find(path)
        return inode is not None and stat.S_ISDIR(inode.mode)

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted; nothing if there is none."""
        inode = self.find(path)
        if inode is None or not stat.S_ISDIR(inode.mode):
            return []
        return sorted(name.decode(errors="replace") for name in self._reader.entries(inode))

    def read(self, path: str, limit: int) -> bytes | None:
        """A regular file's bytes, at most `limit`; None if there is no such file."""
        inode = self.find(path)
        if inode is None or not stat.S_ISREG(inode.mode):
            return None
        return self._reader.content(inode, limit)
