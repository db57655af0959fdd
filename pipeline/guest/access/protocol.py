"""The only package that opens file system images: one protocol, two editing backends.

`open_guest` mounts nothing on the host and runs no guest code. A guest path is an absolute `str`;
bytes that are not UTF-8 appear as lone surrogates, as os.fsdecode makes them. Symbolic links are
followed inside the guest only, by `paths.py`, whichever backend is at work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pipeline.disk.filesystems.status import Status


@dataclass(frozen=True)
class Facts:
    """The root file system as the backend itself sees it. size in bytes."""

    filesystem: str
    uuid: str
    label: str
    size: int


class Guest(Protocol):
    """The files of one guest: the root file system at "/", its boot partition at "/boot".

    Everything below a separate "/boot" is read-only. Every method raises GuestError for a path
    that is not absolute, leads through too many links, or is of the wrong kind.
    """

    @property
    def backend(self) -> Literal["guestfs", "e2fsprogs"]:
        """Which backend is at work."""

    @property
    def facts(self) -> Facts:
        """The root file system's own figures."""

    def resolve(self, path: str) -> str:
        """`path` without symbolic links, "." and ".."; its last component need not exist."""

    def stat(self, path: str) -> Status | None:
        """The entry itself, a link not followed; None if there is none."""

    def exists(self, path: str) -> bool:
        """Whether `path` leads, through links, to something."""

    def read(self, path: str, limit: int) -> bytes:
        """A regular file's content, through links; GuestError if it is larger than `limit`."""

    def names(self, path: str) -> list[str]:
        """Names in a directory, sorted, without "." and ".."."""

    def read_link(self, path: str) -> str:
        """The target of a symbolic link, as it is written."""

    def get_xattr(self, path: str, name: str) -> bytes | None:
        """An extended attribute of the entry itself; None if it has none of that name."""

    def list_xattrs(self, path: str) -> list[str]:
        """Names of the entry's extended attributes, sorted."""

    def is_immutable(self, path: str) -> bool:
        """Whether a file or directory, links followed, has the inode flag i of chattr(1)."""

    def write(self, path: str, data: bytes, mode: int, uid: int = 0, gid: int = 0) -> None:
        """Put a new file in place of whatever file or link had that name.

        The new file has exactly this mode and owner and no extended attributes; it has the inode
        flags (chattr(1)) of a file in whose place it comes, which hinder no edit. A link is
        replaced, not followed: call `resolve` first where it should be.
        """

    def make_directory(self, path: str, mode: int, uid: int = 0, gid: int = 0) -> None:
        """Make one directory; GuestError if the name is taken."""

    def remove(self, path: str) -> None:
        """Remove a file, a link or a whole directory, within bounds; nothing if it is not there."""

    def symlink(self, target: str, path: str) -> None:
        """Make a symbolic link in place of whatever file or link had that name."""

    def chmod(self, path: str, mode: int) -> None:
        """Set the permission bits of the entry itself."""

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Set the owner of the entry itself."""

    def set_xattr(self, path: str, name: str, value: bytes) -> None:
        """Set an extended attribute of the entry itself."""

    def download(self, path: str, to: Path) -> None:
        """Copy a regular file, through links, to a new host file."""

    def set_label(self, label: str) -> None:
        """Label the root file system (GuestError over 16 bytes for ext, 12 for xfs)."""
