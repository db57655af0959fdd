"""Guest paths and links, resolved here for both backends and never by the host.

A backend implements the underscored primitives of `PathGuest` for *real* paths: absolute, no
link, "." or ".." in them. What an entry is (its `Status`) is remembered, so that a backend is
asked once a path and an edit is seen by later look-ups before it reaches the file system.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from pipeline.core.errors import GuestError
from pipeline.core.text import printable
from pipeline.disk.filesystems.status import Status
from pipeline.guest.access.protocol import Facts
from pipeline.host.files import finish

MAX_LINKS = 40  # what Linux follows before ELOOP (path_resolution(7))
MAX_NAME = 255  # bytes, NAME_MAX of every file system dealt with
MAX_PATH = 4096  # bytes, PATH_MAX
MAX_REMOVED = 20_000  # entries below one removed directory; installer logs are some dozens
_ATTRIBUTES = ("user.", "trusted.", "security.", "system.")


class MissingError(GuestError):
    """A directory on the way to a path is not there."""


def encoded(path: str) -> bytes:
    """The bytes of a guest path: UTF-8 with lone surrogates for what is not."""
    return path.encode("utf-8", "surrogateescape")


def decoded(name: bytes) -> str:
    """A guest name as text: UTF-8 with lone surrogates for what is not."""
    return name.decode("utf-8", "surrogateescape")


def shown(path: str) -> str:
    """`path` for a message: control characters and surrogates escaped."""
    return printable(path, keep="")


def parent(real: str) -> str:
    """The directory of a real path; "/" of "/"."""
    return real.rpartition("/")[0] or "/"


def base(real: str) -> str:
    """The last component of a real path."""
    return real.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    """A name below a directory, without a double slash."""
    return f"{directory.rstrip('/')}/{name}"


def below(real: str, directory: str) -> bool:
    """Whether a real path is the directory or lies in it."""
    return real == directory or real.startswith(directory.rstrip("/") + "/")


class PathGuest(ABC):
    """`Guest` over a backend's primitives."""

    backend: Literal["guestfs", "e2fsprogs"]

    def __init__(self, *, separate_boot: bool) -> None:
        self._known: dict[str, Status | None] = {}
        self._separate_boot = separate_boot

    # What a backend knows how to do, on real paths of entries of the right kind.

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """The root file system's own figures."""

    @abstractmethod
    def _lstat(self, real: str) -> Status | None: ...
    @abstractmethod
    def _read_link(self, real: str) -> str: ...
    @abstractmethod
    def _read(self, real: str, size: int) -> bytes: ...
    @abstractmethod
    def _list(self, real: str) -> list[str]: ...
    @abstractmethod
    def _xattrs(self, real: str) -> dict[str, bytes]: ...
    @abstractmethod
    def _is_immutable(self, real: str) -> bool: ...
    @abstractmethod
    def _download(self, real: str, size: int, to: Path) -> None: ...
    @abstractmethod
    def _replace(self, real: str, data: bytes, status: Status, taken: bool) -> None: ...
    @abstractmethod
    def _mkdir(self, real: str, status: Status) -> None: ...
    @abstractmethod
    def _symlink(self, target: str, real: str, taken: bool) -> None: ...
    @abstractmethod
    def _unlink(self, real: str) -> None: ...
    @abstractmethod
    def _rmdir(self, real: str) -> None: ...
    @abstractmethod
    def _set_status(self, real: str, status: Status) -> None: ...
    @abstractmethod
    def _set_xattr(self, real: str, name: str, value: bytes) -> None: ...
    @abstractmethod
    def set_label(self, label: str) -> None:
        """Label the root file system."""

    # Reading

    def resolve(self, path: str) -> str:
        """`path` without links, "." and ".."; its last component need not exist."""
        return self._walk(path, follow=True)

    def stat(self, path: str) -> Status | None:
        """The entry itself, a link not followed; None if there is none."""
        try:
            return self._lookup(self._walk(path, follow=False))
        except MissingError:
            return None

    def exists(self, path: str) -> bool:
        """Whether `path` leads, through links, to something."""
        try:
            return self._lookup(self._walk(path, follow=True)) is not None
        except MissingError:
            return False

    def read(self, path: str, limit: int) -> bytes:
        """A regular file's content, through links; GuestError if it is larger than `limit`."""
        real, status = self._existing(path, "read", "file", follow=True)
        if status.size > limit:
            raise GuestError(
                "read the guest's file",
                shown(path),
                why=f"it has {status.size} bytes and at most {limit} are expected there",
                next_step="Look at what the installer wrote there",
            )
        return self._read(real, status.size)

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted."""
        real, _ = self._existing(path, "list", "directory", follow=True)
        return sorted(self._list(real))

    def read_link(self, path: str) -> str:
        """The target of a symbolic link, as it is written."""
        real, _ = self._existing(path, "read the link", "symlink")
        return self._read_link(real)

    def get_xattr(self, path: str, name: str) -> bytes | None:
        """An extended attribute of the entry itself; None if it has none of that name."""
        real, _ = self._existing(path, "read an attribute of")
        return self._xattrs(real).get(name)

    def list_xattrs(self, path: str) -> list[str]:
        """Names of the entry's extended attributes, sorted."""
        real, _ = self._existing(path, "read the attributes of")
        return sorted(self._xattrs(real))

    def is_immutable(self, path: str) -> bool:
        """Whether a file or directory, links followed, has the inode flag i of chattr(1)."""
        real, status = self._existing(path, "read the flags of", follow=True)
        return status.kind in ("file", "directory") and self._is_immutable(real)

    def download(self, path: str, to: Path) -> None:
        """Copy a regular file, through links, to a new host file."""
        real, status = self._existing(path, "copy", "file", follow=True)
        partial = to.with_name(f"{to.name}.partial")
        try:
            self._download(real, status.size, partial)
            if partial.stat().st_size != status.size:
                raise GuestError(
                    "copy the guest's file",
                    shown(path),
                    why=f"{partial.stat().st_size} of its {status.size} bytes arrived",
                )
            finish(partial, to)
        finally:
            partial.unlink(missing_ok=True)

    # Writing

    def write(self, path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
        """Put a new file in place of whatever file or link had that name."""
        real, taken = self._place(path, "write")
        status = Status("file", mode, uid, gid, len(data))
        self._replace(real, data, status, taken)
        self._known[real] = status

    def make_directory(self, path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
        """Make one directory; GuestError if the name is taken."""
        real, taken = self._place(path, "make the directory")
        if taken:
            raise GuestError("make the guest's directory", shown(path), why="the name is taken")
        status = Status("directory", mode, uid, gid, 0)
        self._mkdir(real, status)
        self._known[real] = status

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link in place of whatever file or link had that name."""
        if not target or "\0" in target or len(encoded(target)) >= MAX_PATH:
            raise GuestError("make the guest's link", shown(path), why="its target is unusable")
        real, taken = self._place(path, "make the link")
        self._symlink(target, real, taken)
        self._known[real] = Status("symlink", 0o777, 0, 0, len(encoded(target)))

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole directory, within bounds; nothing if it is not there."""
        if self.stat(path) is None:
            return
        real, _ = self._place(path, "remove", directory=True)
        # Links are entries like any other here, so nothing outside the directory is reached.
        removed: list[tuple[str, bool]] = []
        waiting = [real]
        while waiting:
            entry = waiting.pop()
            status = self._lookup(entry)
            is_directory = status is not None and status.kind == "directory"
            removed.append((entry, is_directory))
            if is_directory:
                waiting += [join(entry, name) for name in self._list(entry)]
            if len(removed) + len(waiting) > MAX_REMOVED:
                raise GuestError(
                    "remove the guest's directory",
                    shown(path),
                    why=f"it holds more than {MAX_REMOVED} entries",
                    next_step="Remove it in the installed system",
                )
        for entry, is_directory in reversed(removed):
            (self._rmdir if is_directory else self._unlink)(entry)
            self._known[entry] = None

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits of the entry itself."""
        real, status = self._existing(path, "set the mode of", write=True)
        self._update(real, Status(status.kind, mode, status.uid, status.gid, status.size))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner of the entry itself."""
        real, status = self._existing(path, "set the owner of", write=True)
        self._update(real, Status(status.kind, status.mode, uid, gid, status.size))

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        """Set an extended attribute of the entry itself."""
        real, _ = self._existing(path, "set an attribute of", write=True)
        if not name.startswith(_ATTRIBUTES) or not name.isprintable() or " " in name:
            raise GuestError("set an attribute of", shown(path), why=f"{shown(name)} is no name")
        self._set_xattr(real, name, value)

    # Helpers

    def _update(self, real: str, status: Status) -> None:
        self._set_status(real, status)
        self._known[real] = status

    def _lookup(self, real: str) -> Status | None:
        if real not in self._known:
            self._known[real] = self._lstat(real)
        return self._known[real]

    def _walk(self, path: str, *, follow: bool) -> str:
        """The real path; MissingError if a directory on the way is not there."""
        if not path.startswith("/") or "\0" in path or len(encoded(path)) >= MAX_PATH:
            raise GuestError("use the guest's path", shown(path[:200]), why="it is not absolute")
        waiting = path.split("/")[::-1]
        real: list[str] = []
        links = 0
        while waiting:
            name = waiting.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del real[-1:]
                continue
            here = "/" + "/".join([*real, name])
            last = not any(part not in ("", ".") for part in waiting)
            if len(encoded(name)) > MAX_NAME or len(encoded(here)) >= MAX_PATH:
                raise GuestError("use the guest's path", shown(path), why="a name is too long")
            status = self._lookup(here)
            if status is not None and status.kind == "symlink" and (follow or not last):
                links += 1
                if links > MAX_LINKS:
                    raise GuestError("follow the guest's path", shown(path), why="too many links")
                target = self._read_link(here)
                if target.startswith("/"):
                    real = []
                waiting += target.split("/")[::-1]
                continue
            if status is None and not last:
                raise MissingError("follow", shown(path), why=f"there is no {shown(here)}")
            if status is not None and status.kind != "directory" and not last:
                raise MissingError("follow", shown(path), why=f"{shown(here)} is no directory")
            real.append(name)
        return "/" + "/".join(real)

    def _existing(
        self,
        path: str,
        verb: str,
        kind: str = "",
        *,
        follow: bool = False,
        write: bool = False,
    ) -> tuple[str, Status]:
        real = self._walk(path, follow=follow)
        status = self._lookup(real)
        if status is None:
            raise MissingError(f"{verb} the guest's", shown(path), why="there is no such entry")
        if kind and status.kind != kind:
            raise GuestError(
                f"{verb} the guest's", shown(path), why=f"it is a {status.kind}, not a {kind}"
            )
        if write:
            self._writable(real)
        return real, status

    def _place(self, path: str, verb: str, *, directory: bool = False) -> tuple[str, bool]:
        """The real path an entry is to get, and whether a file or link has it now."""
        real = self._walk(path, follow=False)
        self._writable(real)
        status = self._lookup(real)
        if real == "/" or (status is not None and status.kind == "directory" and not directory):
            raise GuestError(f"{verb} the guest's", shown(path), why="it is a directory")
        return real, status is not None

    def _writable(self, real: str) -> None:
        if self._separate_boot and below(real, "/boot"):
            raise GuestError(
                "edit the guest's",
                shown(real),
                why="it is on the boot partition, which does not become part of the image",
            )
