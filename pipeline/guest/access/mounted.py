"""A guest with further volumes mounted for reading: an EFI system partition, a /boot of FAT.

What boots a guest may lie on a file system that neither backend need be asked for: the readers of
`pipeline.disk` look into it where the guest would have it mounted. Links lead from one volume to
the other as in the running guest. Nothing can be written.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from pipeline.core.errors import GuestError
from pipeline.core.image import Mount
from pipeline.disk.blocks.source import RawFile, Source
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.fat import Fat
from pipeline.disk.filesystems.lookup import Inode, Reader
from pipeline.disk.filesystems.status import Kind, Status
from pipeline.disk.filesystems.xfs import Xfs
from pipeline.guest.access.paths import PathGuest, decoded, encoded, shown
from pipeline.guest.access.protocol import Facts, Guest
from pipeline.host.files import naming

_KINDS: dict[int, Kind] = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
}
_MAX_LINK = 4096
_READERS: dict[str, Callable[[Source], Reader]] = {"xfs": Xfs, "vfat": Fat}


class _Streams(Protocol):
    def pieces(self, inode: Inode) -> Iterator[bytes]: ...


class MountedVolume:
    """A file system by its reader, entry by entry."""

    def __init__(self, source: Source, filesystem: str) -> None:
        self._reader = _READERS.get(filesystem, Ext)(source)
        self._folds_case = isinstance(self._reader, Fat)
        self._known: dict[int, dict[bytes, int]] = {}

    def find(self, path: str) -> Inode | None:
        """The inode of an absolute path, no link followed; None if there is none."""
        inode = self._reader.inode(self._reader.root)
        for name in encoded(path).split(b"/"):
            if not name:
                continue
            if not stat.S_ISDIR(inode.mode):
                return None
            number = self._names(inode).get(self._key(name))
            if number is None:
                return None
            inode = self._reader.inode(number)
        return inode

    def names(self, directory: Inode) -> list[str]:
        """What a directory holds."""
        return [decoded(name) for name in self._reader.entries(directory)]

    def content(self, inode: Inode, limit: int) -> bytes:
        """A file's or link's bytes."""
        return self._reader.content(inode, limit)

    def copy(self, inode: Inode, to: Path) -> None:
        """Write a file's bytes to a host file, in pieces where the reader has them."""
        streams: _Streams | None = self._reader if isinstance(self._reader, (Fat, Xfs)) else None
        with naming(to), to.open("wb") as file:
            pieces = streams.pieces(inode) if streams else iter([self.content(inode, inode.size)])
            for piece in pieces:
                file.write(piece)

    def _names(self, directory: Inode) -> dict[bytes, int]:
        if directory.number not in self._known:
            found = self._reader.entries(directory)
            self._known[directory.number] = {self._key(name): n for name, n in found.items()}
        return self._known[directory.number]

    def _key(self, name: bytes) -> bytes:
        if not self._folds_case:
            return name
        return name.decode(errors="surrogateescape").casefold().encode(errors="surrogatepass")


class MountedGuest(PathGuest):
    """`guest` with `volumes` at their paths; one at "/" stands for the root itself."""

    backend: Literal["guestfs", "e2fsprogs"] = "e2fsprogs"

    def __init__(
        self, guest: Guest | None, volumes: Mapping[str, MountedVolume], facts: Facts | None = None
    ) -> None:
        super().__init__(separate_boot=True)
        self._guest, self._facts = guest, facts
        # The longest path first: a mount hides what lies below it.
        self._volumes = sorted(volumes.items(), key=lambda pair: len(pair[0]), reverse=True)

    @property
    def facts(self) -> Facts:
        """The root file system's own figures."""
        if self._facts is not None:
            return self._facts
        assert self._guest is not None
        return self._guest.facts

    def _volume(self, real: str) -> tuple[MountedVolume, str] | None:
        for at, volume in self._volumes:
            if at in ("/", real) or real.startswith(at + "/"):
                return volume, real if at == "/" else real[len(at) :] or "/"
        return None

    def _inode(self, real: str) -> tuple[MountedVolume, Inode] | None:
        """What lies on a mounted volume; None for a path of the guest's own."""
        there = self._volume(real)
        if there is None:
            return None
        volume, path = there
        inode = volume.find(path)
        if inode is None:
            raise GuestError("read the guest's", shown(real), why="there is no such entry")
        return volume, inode

    def _own(self) -> Guest:
        assert self._guest is not None, "a guest without one of its own has a volume at /"
        return self._guest

    def _lstat(self, real: str) -> Status | None:
        there = self._volume(real)
        if there is None:
            return self._own().stat(real)
        inode = there[0].find(there[1])
        if inode is None:
            return None
        kind = _KINDS.get(stat.S_IFMT(inode.mode), "other")
        return Status(kind, inode.mode & 0o7777, 0, 0, inode.size)

    def _read_link(self, real: str) -> str:
        found = self._inode(real)
        if found is None:
            return self._own().read_link(real)
        return decoded(found[0].content(found[1], _MAX_LINK))

    def _read(self, real: str, size: int) -> bytes:
        found = self._inode(real)
        return self._own().read(real, size) if found is None else found[0].content(found[1], size)

    def _list(self, real: str) -> list[str]:
        found = self._inode(real)
        return self._own().names(real) if found is None else found[0].names(found[1])

    def _download(self, real: str, size: int, to: Path) -> None:
        found = self._inode(real)
        if found is None:
            self._own().download(real, to)
        else:
            found[0].copy(found[1], to)

    def _xattrs(self, real: str) -> dict[str, bytes]:
        raise _read_only(real)

    def _is_immutable(self, real: str) -> bool:
        raise _read_only(real)

    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None:
        raise _read_only(real)

    def _mkdir(self, real: str, status: Status) -> None:
        raise _read_only(real)

    def _symlink(self, target: str, real: str, taken: bool) -> None:
        raise _read_only(real)

    def _unlink(self, real: str) -> None:
        raise _read_only(real)

    def _rmdir(self, real: str) -> None:
        raise _read_only(real)

    def _set_status(self, real: str, status: Status) -> None:
        raise _read_only(real)

    def _set_xattr(self, real: str, name: str, value: bytes) -> None:
        raise _read_only(real)

    def set_label(self, label: str) -> None:
        """Not here: nothing is written."""
        raise _read_only("/")


@contextmanager
def mounted(guest: Guest, mounts: tuple[Mount, ...]) -> Iterator[Guest]:
    """The guest with the images at their paths, while the context lasts.

    DiskError for one whose first sectors are damaged; reading further in may raise it too.
    """
    if not mounts:
        yield guest
        return
    with ExitStack() as stack:
        volumes = {}
        for mount in mounts:
            file = stack.enter_context(RawFile(mount.image.path))
            volumes[mount.at] = MountedVolume(file, mount.image.filesystem)
        yield MountedGuest(guest, volumes)


def _read_only(real: str) -> GuestError:
    return GuestError("edit the guest's", shown(real), why="it was opened for reading")
