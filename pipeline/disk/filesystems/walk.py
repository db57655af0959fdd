"""Every entry of a file system, in one walk over its inodes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from posixpath import join, normpath
from typing import NamedTuple, Protocol

from isal import isal_zlib

from pipeline.core.errors import DiskError
from pipeline.disk.filesystems.entry import Entry
from pipeline.disk.filesystems.status import Status
from pipeline.host.files import write_scratch

_MAX_ENTRIES = 2_000_000  # forty times a full Debian server
_MAX_DEPTH = 200  # directories; PATH_MAX allows some 2000, real systems have some 20
_MAX_LINKS = 40  # what Linux follows before ELOOP (path_resolution(7))
_MAX_TARGET = 4096  # bytes of a link, PATH_MAX
_KINDS = {"file": "f", "directory": "d", "symlink": "l", "other": "o"}


class Facts(NamedTuple):
    """An inode as lstat(2) shows it; allocated in bytes."""

    status: Status
    allocated: int


class Volume(Protocol):
    """A file system by inode numbers; DiskError for whatever is damaged or not supported."""

    root: int
    size: int
    used: int

    def facts(self, number: int) -> Facts:
        """What the inode is."""

    def names(self, number: int) -> dict[bytes, int]:
        """A directory's names and inode numbers, without "." and ".."."""

    def pieces(self, number: int) -> Iterator[bytes]:
        """A regular file's data in order, its holes left out."""

    def content(self, number: int, limit: int) -> bytes:
        """A file's or link's bytes; DiskError when there are more than `limit`."""


class Tree:
    """The entries in the order of their paths, and bounded reads of some of them."""

    def __init__(self, volume: Volume, path: Path) -> None:
        self._volume, self._path = volume, path
        self._inodes: dict[str, int] = {}
        # Neither files nor directories can hold more than their file system, unless they lie.
        self._data_left = self._names_left = volume.size
        self._checks: dict[int, int] = {}
        self.entries = tuple(sorted(self._walk()))
        self.size, self.used = volume.size, volume.used

    @cached_property
    def links(self) -> dict[str, str]:
        """Targets of the symbolic links by their paths."""
        found = {}
        for entry in self.entries:
            if entry.kind == "l":
                target = self._volume.content(self._inodes[entry.path], _MAX_TARGET)
                found[entry.path] = _text(target)
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
        status = self._volume.facts(number).status
        if status.kind != "file" or status.size > limit:
            return None
        return self._volume.content(number, limit)

    def copy(self, path: str, to: Path, limit: int) -> bool:
        """Copy such a file to a new host file; False if there is none or it is too large."""
        content = self.read(path, limit)
        if content is None:
            return False
        write_scratch(to, content)
        return True

    def _walk(self) -> Iterator[Entry]:
        seen: set[int] = set()
        waiting = [("", self._volume.root, 0)]
        while waiting:
            directory, number, depth = waiting.pop()
            for name, inode in self._volume.names(number).items():
                path = f"{directory}/{_text(name)}"
                entry = self._entry(path, inode, first=inode not in seen)
                if entry.kind == "d":
                    # A directory has one name; a second one is damage that would never end.
                    if inode in seen or depth >= _MAX_DEPTH:
                        continue
                    waiting.append((path, inode, depth + 1))
                seen.add(inode)
                self._inodes[path] = inode
                if len(self._inodes) > _MAX_ENTRIES:
                    raise self._broken(f"it has more than {_MAX_ENTRIES} names")
                yield entry

    def _entry(self, path: str, inode: int, *, first: bool) -> Entry:
        status, allocated = self._volume.facts(inode)
        if first:
            self._checks[inode] = self._check(inode, status)
        return Entry(
            path=path,
            kind=_KINDS[status.kind],
            mode=status.mode,
            uid=status.uid,
            gid=status.gid,
            size=status.size if status.kind != "directory" else 0,
            allocated=allocated if first else 0,
            check=self._checks[inode],
        )

    def _check(self, inode: int, status: Status) -> int:
        check = 0
        if status.kind == "file":
            for data in self._volume.pieces(inode):
                self._data_left -= len(data)
                if self._data_left < 0:
                    raise self._broken("its files share blocks")
                check = isal_zlib.crc32(data, check)
        elif status.kind == "symlink":
            check = isal_zlib.crc32(self._volume.content(inode, _MAX_TARGET))
        elif status.kind == "directory":
            self._names_left -= status.size
            if self._names_left < 0:
                raise self._broken("its directories are larger than itself")
        return check

    def _broken(self, why: str) -> DiskError:
        return DiskError("list the files in", self._path, why=why)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
