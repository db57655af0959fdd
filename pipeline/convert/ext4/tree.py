"""The entries of a root that lies in layers, as overlayfs with `userxattr` shows it.

Sources: the kernel's documentation of overlayfs (whiteouts, opaque directories, user.overlay.*).
Ids, modes and attributes are as this process sees them: run it where the guest's ids are mapped.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.core.errors import HostError, InputError

Kind = Literal["file", "directory", "symlink", "character", "block", "fifo", "socket"]

KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_KEPT = ("security.", "user.", "system.posix_acl_")
_OVERLAY = "user.overlay."
_OPAQUE = "user.overlay.opaque"
_REFUSED = ("user.overlay.redirect", "user.overlay.metacopy")
_NO_ATTRIBUTES = frozenset({errno.EOPNOTSUPP, errno.ENODATA})
_ENFORCE = "/sys/fs/selinux/enforce"


class Entry(NamedTuple):
    """One name of a root.

    path: relative, without a slash at either end; b"" is the root itself. mode: the twelve
    permission bits. mtime: nanoseconds since 1970. size: bytes, of regular files. rdev: (major,
    minor) of device nodes. target: of symbolic links. xattrs: by name, in the order of names, as
    getxattr(2) gives them. same_as: the first path of a file of several names, b"" for that one
    itself and for all others. links: how many names of a file the root has. host: the path that has
    the data, b"" for none. layer: index of the layer it is from. base: index of the lowest layer
    that has this directory; for others, `layer`. sparse: the host may keep it with holes.
    """

    path: bytes
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    rdev: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: tuple[tuple[str, bytes], ...] = ()
    same_as: bytes = b""
    links: int = 1
    host: bytes = b""
    layer: int = 0
    base: int = 0
    sparse: bool = False


def scan(layers: Sequence[Path], extra: Sequence[Entry] = ()) -> list[Entry]:
    """The union of the layers, sorted by the bytes of the paths.

    layers: topmost first. extra: entries without a file of the host, such as device nodes that
    nobody may make in a namespace; each takes the place of what the layers have at its path, and
    needs its directory there. InputError for what cannot be told, HostError for what cannot be
    read.
    """
    scanner = _Scanner([os.fsencode(layer) for layer in layers])
    try:
        found = scanner.scan()
    except OSError as error:
        raise HostError(
            "read the tree",
            os.fsdecode(error.filename) if error.filename else "",
            why=f"{error.strerror}",
            next_step="Read it where the ids of the guest are mapped",
        ) from error
    for entry in extra:
        scanner.identities.pop(entry.path, None)
    return _numbered(_with_extra(found, extra), scanner.identities)


class _Scanner:
    def __init__(self, layers: Sequence[bytes]) -> None:
        self._layers = layers
        self.identities: dict[bytes, tuple[int, int, int]] = {}
        # On a host with SELinux the labels are those of the host's policy, not of the guest's.
        self._host_labels = Path(_ENFORCE).exists()

    def scan(self) -> dict[bytes, Entry]:
        found: dict[bytes, Entry] = {}
        tops: list[tuple[int, bytes]] = []
        for index, host in enumerate(self._layers):
            tops.append((index, host))
            entry, opaque = self._entry(b"", host, os.lstat(host), index)
            found.setdefault(b"", entry)
            if opaque:
                break
        found[b""] = found[b""]._replace(base=tops[-1][0])
        waiting = [(b"", tops)]
        while waiting:
            path, places = waiting.pop()
            waiting += self._directory(path, places, found)
        return found

    def _directory(
        self, path: bytes, places: Sequence[tuple[int, bytes]], found: dict[bytes, Entry]
    ) -> list[tuple[bytes, list[tuple[int, bytes]]]]:
        """Add the names in one directory; what is left to do of those below it."""
        closed: set[bytes] = set()
        below: dict[bytes, list[tuple[int, bytes]]] = {}
        prefix = path + b"/" if path else b""
        for index, place in places:
            with os.scandir(place) as names:
                for each in names:
                    name = each.name
                    if name in closed:
                        continue
                    status = each.stat(follow_symlinks=False)
                    directory = stat.S_ISDIR(status.st_mode)
                    if not directory:
                        closed.add(name)
                        if name in below:
                            continue
                        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                            continue
                    entry, opaque = self._entry(prefix + name, each.path, status, index)
                    if directory:
                        if name in below:
                            found[entry.path] = found[entry.path]._replace(base=index)
                        else:
                            found[entry.path] = entry
                        below.setdefault(name, []).append((index, each.path))
                        if opaque:
                            closed.add(name)
                    else:
                        found[entry.path] = entry
        return [(prefix + name, each) for name, each in below.items()]

    def _entry(
        self, path: bytes, host: bytes, status: os.stat_result, layer: int
    ) -> tuple[Entry, bool]:
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        xattrs, opaque = self._attributes(host)
        size, sparse, data = 0, False, b""
        if kind == "file":
            size, data = status.st_size, host
            sparse = status.st_blocks * 512 < size
        if status.st_nlink > 1 and kind != "directory":
            self.identities[path] = (layer, status.st_dev, status.st_ino)
        device = kind in ("character", "block")
        return (
            Entry(
                path,
                kind,
                status.st_mode & 0o7777,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns,
                size,
                (os.major(status.st_rdev), os.minor(status.st_rdev)) if device else (0, 0),
                os.readlink(host) if kind == "symlink" else b"",  # noqa: PTH115 # bytes
                xattrs,
                host=data,
                layer=layer,
                base=layer,
                sparse=sparse,
            ),
            opaque,
        )

    def _attributes(self, host: bytes) -> tuple[tuple[tuple[str, bytes], ...], bool]:
        """The attributes that an image keeps, and whether the directory hides those below."""
        try:
            names = os.listxattr(host, follow_symlinks=False)
        except OSError as error:
            if error.errno in _NO_ATTRIBUTES:
                return (), False
            raise
        if not names:
            return (), False
        for name in _REFUSED:
            if name in names:
                raise InputError(
                    "read the layers of a root at",
                    os.fsdecode(host),
                    why=f"it has {name}: the overlay was mounted with redirect_dir or metacopy",
                    next_step="Mount it with userxattr alone and make the layer again",
                )
        opaque = _OPAQUE in names and _value(host, _OPAQUE) == b"y"
        kept = [
            (name, _value(host, name))
            for name in sorted(names)
            if name.startswith(_KEPT)
            and not name.startswith(_OVERLAY)
            and not (self._host_labels and name == "security.selinux")
        ]
        return tuple(kept), opaque


def _value(host: bytes, name: str) -> bytes:
    return os.getxattr(host, name, follow_symlinks=False)


def _with_extra(found: dict[bytes, Entry], extra: Sequence[Entry]) -> list[Entry]:
    for entry in extra:
        before = found.get(entry.path)
        parent = found.get(parent_of(entry.path))
        if parent is None or parent.kind != "directory" or not entry.path:
            why = "its directory is not in the tree"
        elif before and before.kind == "directory" and entry.kind != "directory":
            why = "the tree has a directory there"
        elif entry.kind == "file" and entry.size:
            why = "it is a file with content"
        else:
            found[entry.path] = entry
            continue
        raise InputError("add to the tree", os.fsdecode(entry.path), why=why)
    return [found[path] for path in sorted(found)]


def _numbered(entries: list[Entry], identities: dict[bytes, tuple[int, int, int]]) -> list[Entry]:
    """The entries with `same_as` and `links` filled in."""
    names: dict[tuple[int, int, int], list[int]] = {}
    for index, entry in enumerate(entries):
        identity = identities.get(entry.path)
        if identity:
            names.setdefault(identity, []).append(index)
    for indexes in names.values():
        first = entries[indexes[0]].path
        for index in indexes:
            same = first if index != indexes[0] else b""
            entries[index] = entries[index]._replace(same_as=same, links=len(indexes))
    return entries


def parent_of(path: bytes) -> bytes:
    """The directory of a path."""
    return path.rpartition(b"/")[0]
