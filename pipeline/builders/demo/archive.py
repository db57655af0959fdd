"""File trees in memory, written as cpio (initrd) or tar (payload) without privileges.

Owners are root and times are zero, so that the same input always gives the same bytes.
"""

from __future__ import annotations

import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

_CPIO_BLOCK = 512
_MAGIC = b"070701"  # cpio(5), "New ASCII Format"; the kernel's initramfs format


@dataclass(frozen=True)
class Entry:
    """One file of an archive.

    mode: type and permission bits as in stat(2). data: a regular file's bytes, or the host's
    file that has them. target: a symbolic link's. device: major and minor of a device node.
    """

    mode: int
    data: bytes | Path = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)

    def size(self) -> int:
        """Bytes of content: the file's, or the link target's."""
        if stat.S_ISLNK(self.mode):
            return len(self.target.encode())
        return self.data.stat().st_size if isinstance(self.data, Path) else len(self.data)

    def open(self) -> IO[bytes]:
        """The content as a stream."""
        if stat.S_ISLNK(self.mode):
            return BytesIO(self.target.encode())
        return self.data.open("rb") if isinstance(self.data, Path) else BytesIO(self.data)


class FileTree:
    """Entries by path without leading slash; parents are made as needed, the last put wins."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def put(self, name: str, data: bytes | Path, mode: int = 0o644) -> None:
        """A regular file."""
        self._add(name, Entry(stat.S_IFREG | mode, data=data))

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._add(name, Entry(stat.S_IFLNK | 0o777, target=target))

    def directory(self, name: str, mode: int = 0o755) -> None:
        """A directory, also when it is there already."""
        self._add(name, Entry(stat.S_IFDIR | mode))

    def character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device node."""
        self._add(name, Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def copy(self, directory: Path) -> None:
        """Everything below a directory of the host; a file with a `#!` line becomes executable."""
        for path in sorted(directory.rglob("*")):
            name = str(path.relative_to(directory))
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.directory(name)
            else:
                data = path.read_bytes()
                self.put(name, data, 0o755 if data.startswith(b"#!") else 0o644)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """Names and entries, sorted: a directory always comes before what is in it."""
        return iter(sorted(self._entries.items()))

    def _add(self, name: str, entry: Entry) -> None:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"not a path inside an archive: {name!r}")
        for parent in path.parents:
            if parent.parts:
                self._entries.setdefault(str(parent), Entry(stat.S_IFDIR | 0o755))
        self._entries[str(path)] = entry


def write_cpio(tree: FileTree, stream: IO[bytes]) -> None:
    """The tree as a cpio archive in the kernel's "newc" format, padded to 512 bytes.

    The kernel takes further archives after it, which is how virt-install injects files.
    Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5).
    """
    written = 0
    for inode, (name, entry) in enumerate(tree, start=1):
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        fields = (inode, entry.mode, 0, 0, links, 0, entry.size(), 0, 0, *entry.device)
        header = _cpio_header(name, fields)
        written += stream.write(header)
        with entry.open() as content:
            shutil.copyfileobj(content, stream)
        written += entry.size() + stream.write(bytes(-entry.size() % 4))
    written += stream.write(_cpio_header("TRAILER!!!", (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)))
    stream.write(bytes(-written % _CPIO_BLOCK))


def _cpio_header(name: str, fields: Sequence[int]) -> bytes:
    """fields: inode, mode, uid, gid, links, time, size, and major and minor, twice."""
    encoded = name.encode() + b"\0"
    numbers = (*fields, len(encoded), 0)  # the last is a checksum this format does not use
    header = _MAGIC + b"".join(b"%08X" % number for number in numbers) + encoded
    return header + bytes(-len(header) % 4)


def write_tar(tree: FileTree, stream: IO[bytes]) -> None:
    """The tree as an uncompressed POSIX tar archive."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, entry in tree:
            member = tarfile.TarInfo(name)
            member.mode = stat.S_IMODE(entry.mode)
            member.uname = member.gname = "root"
            if stat.S_ISREG(entry.mode):
                member.size = entry.size()
                with entry.open() as content:
                    archive.addfile(member, content)
                continue
            if stat.S_ISLNK(entry.mode):
                member.type, member.linkname = tarfile.SYMTYPE, entry.target
            elif stat.S_ISDIR(entry.mode):
                member.type = tarfile.DIRTYPE
            else:
                member.type = tarfile.CHRTYPE
                member.devmajor, member.devminor = entry.device
            archive.addfile(member)
