"""What is in a tree, in a form that two trees can be compared by."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One path: type and permissions, owner, what it holds, extended attributes.

    content: the sha256 of a file, the target of a symlink, the number of a device, else "".
    same_as: the first path, in order, that is a hard link to the same inode.
    """

    mode: int
    owner: tuple[int, int]
    modified: int
    content: str
    attributes: tuple[tuple[str, bytes], ...]
    same_as: str


def listing(root: Path) -> dict[str, Entry]:
    """Every path below `root` (itself as "."), sorted; nothing is followed."""
    seen: dict[int, str] = {}
    found: dict[str, Entry] = {}
    for directory, folders, files in os.walk(root):
        folders.sort()
        names = ["."] if Path(directory) == root else []
        for name in sorted([*names, *folders, *files]):
            path = Path(directory) / name
            key = os.path.relpath(path, root)
            found[key] = _entry(path, key, seen)
    return found


def _entry(path: Path, key: str, seen: dict[int, str]) -> Entry:
    status = path.lstat()
    content = ""
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        content = str(path.readlink())
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        content = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    first = key
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        first = seen.setdefault(status.st_ino, key)
    return Entry(
        status.st_mode,
        (status.st_uid, status.st_gid),
        status.st_mtime_ns,
        content,
        tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
        first,
    )
