"""Every entry of an ext file system, in one walk over its inodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from posixpath import join, normpath

from isal import isal_zlib

from pipeline.errors import DiskError
from pipeline.guest.extfs import ROOT_INODE, Inode, Reader
from pipeline.inventory import Entry

_MAX_ENTRIES = 2_000_000  # forty times a full Debian server
_MAX_DEPTH = 200  # directories; PATH_MAX allows some 2000, real systems have some 20
_MAX_LINKS = 40  # what Linux follows before ELOOP (path_resolution(7))
_SECTOR = 512  # i_blocks counts these (Linux, Documentation/filesystems/ext4/inodes.rst)
_HUGE_FILE = 0x40000  # inode flag: i_blocks counts file system blocks


class Tree:
    """The entries in the order of their paths, and bounded reads of some of them."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader, self._path = reader, path
        self._inodes: dict[str, int] = {}
        self._to_check = reader.superblock.size
        self.entries = tuple(sorted(self._walk()))
        self.size = reader.superblock.size
        self.used = reader.superblock.used

    @cached_property
    def links(self) -> dict[str, str]:
        """Targets of the symbolic links by their paths."""
        found = {}
        for entry in self.entries:
            if entry.kind == "l":
                inode = self._reader.inode(self._inodes[entry.path])
                found[entry.path] = _text(self._reader.link_target(inode))
        return found

    def real(self, path: str) -> str:
        """`path` with the links among its directories followed, inside the tree only."""
        for _ in range(_MAX_LINKS):
            parts = path.split("/")
            for end in range(2, len(parts)):
                target = self.links.get("/".join(parts[:end]))
                if target is not None:
                    here = "/".join(parts[: end - 1]) or "/"
                    path = normpath("/".join([join(here, target), *parts[end:]]))
                    break
            else:
                return path
        return path

    def read(self, path: str, limit: int) -> bytes | None:
        """Content of a regular file no larger than `limit`, its directories' links followed."""
        number = self._inodes.get(self.real(path))
        if number is None:
            return None
        inode = self._reader.inode(number)
        if inode.status().kind != "file" or inode.size > limit:
            return None
        return self._reader.content(inode, limit)

    def copy(self, path: str, to: Path, limit: int) -> bool:
        """Copy such a file to a new host file; False if there is none or it is too large."""
        content = self.read(path, limit)
        if content is None:
            return False
        to.write_bytes(content)
        return True

    def _walk(self) -> Iterator[Entry]:
        reader = self._reader
        seen: set[int] = set()
        waiting = [("", ROOT_INODE, 0)]
        while waiting:
            directory, number, depth = waiting.pop()
            for name, inode_number in reader.directory(reader.inode(number)).items():
                inode = reader.inode(inode_number)
                path = f"{directory}/{_text(name)}"
                entry = self._entry(path, inode, first=inode_number not in seen)
                if entry.kind == "d":
                    # A directory has one name; a second one is damage that would never end.
                    if inode_number in seen or depth >= _MAX_DEPTH:
                        continue
                    waiting.append((path, inode_number, depth + 1))
                seen.add(inode_number)
                self._inodes[path] = inode_number
                if len(self._inodes) > _MAX_ENTRIES:
                    raise self._broken(f"it has more than {_MAX_ENTRIES} names")
                yield entry

    def _entry(self, path: str, inode: Inode, *, first: bool) -> Entry:
        status = inode.status()
        kind = {"file": "f", "directory": "d", "symlink": "l"}.get(status.kind, "o")
        check = 0
        if kind == "f":
            for _, data in self._reader.chunks(inode):
                self._to_check -= len(data) if first else 0
                if self._to_check < 0:
                    raise self._broken("its files share blocks")
                check = isal_zlib.crc32(data, check)
        elif kind == "l":
            check = isal_zlib.crc32(self._reader.link_target(inode))
        return Entry(
            path=path,
            kind=kind,
            mode=status.mode,
            uid=status.uid,
            gid=status.gid,
            size=status.size if kind != "d" else 0,
            allocated=self._allocated(inode) if first else 0,
            check=check,
        )

    def _allocated(self, inode: Inode) -> int:
        raw = inode.raw
        count = int.from_bytes(raw[0x1C:0x20], "little")
        count |= int.from_bytes(raw[0x74:0x76], "little") << 32
        return count * (self._reader.superblock.block_size if inode.flags & _HUGE_FILE else _SECTOR)

    def _broken(self, why: str) -> DiskError:
        return DiskError("list the files in", self._path, why=why)


@contextmanager
def open_tree(path: Path) -> Iterator[Tree]:
    """The tree of an ext file system in a file; DiskError when it is damaged."""
    with Reader(path) as reader:
        yield Tree(reader, path)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
