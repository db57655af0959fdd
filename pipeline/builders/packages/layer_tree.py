"""The script that reads and writes a layer's tree with the guest's ids: run by `host.run_mapped`.

`digest TREE` prints a JSON object: "shape", sha256 over names and attributes of all entries;
"digest", the same with all content; "bytes" of the regular files, "files". `shape TREE` prints the
first alone. `pack TREE FD HEAD` writes a tar to a descriptor, the file HEAD first; `unpack TREE FD`
reads one, in a chroot of the tree, so that no member leads out of it. A layer is what overlayfs
wrote: a 0:0 character device is a removed file, user.overlay.opaque a directory that hides those
below. Runs on the standard library alone. Sources: the kernel's documentation of overlayfs; pax(1).
"""

from __future__ import annotations

import encodings.utf_8
import errno
import hashlib
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

_PIECE = 1 << 20
_KEPT = ("security.capability", "user.", "system.posix_acl_")
_HEAD = "layer.json"
_TREE = "tree"
_XATTR = "LAYER.xattr."
_NO_ATTRIBUTES = frozenset({errno.EOPNOTSUPP, errno.ENODATA})
_KEEP = (encodings.utf_8,)  # loaded before the chroot; nothing may be loaded after it


def entries(tree: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry of the tree, the root first as "", each directory before what is in it."""
    yield "", os.lstat(tree)
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        names = sorted(os.listdir(os.path.join(tree, directory)), reverse=True)  # noqa: PTH118, PTH208
        found = [(f"{directory}/{name}" if directory else name) for name in names]
        for path in reversed(found):
            yield path, os.lstat(f"{tree}/{path}")
        waiting += [path for path in found if stat.S_ISDIR(os.lstat(f"{tree}/{path}").st_mode)]


def attributes(path: str) -> dict[str, bytes]:
    """The extended attributes that are a layer's own, by name."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno in _NO_ATTRIBUTES:
            return {}
        raise
    kept = [name for name in names if name.startswith(_KEPT)]
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in kept}


def digest(tree: str, *, content: bool = True) -> dict[str, Any]:
    """What the module says of `digest`; without `content` its "shape" alone is right."""
    shape, whole = hashlib.sha256(), hashlib.sha256()
    size, files = 0, 0
    first: dict[tuple[int, int], str] = {}
    for path, status in entries(tree):
        place = f"{tree}/{path}" if path else tree
        kind = stat.S_IFMT(status.st_mode)
        fields: list[object] = [path, status.st_mode, status.st_uid, status.st_gid]
        fields += [(name, value.hex()) for name, value in attributes(place).items()]
        regular = kind == stat.S_IFREG
        if kind != stat.S_IFDIR:
            fields += [status.st_mtime_ns if regular else 0, status.st_rdev]
            fields.append(first.setdefault((status.st_dev, status.st_ino), path))
        if kind == stat.S_IFLNK:
            fields.append(os.readlink(place))  # noqa: PTH115
        if regular:
            fields.append(status.st_size)
            files += 1
            size += status.st_size if fields[-2] == path else 0  # a second name takes no space
        line = json.dumps(fields).encode() + b"\n"
        shape.update(line)
        whole.update(line)
        if content and regular and fields[-2] == path:
            whole.update(content_digest(place))
    return {"shape": shape.hexdigest(), "digest": whole.hexdigest(), "bytes": size, "files": files}


def content_digest(path: str) -> bytes:
    """Sha256 of a file."""
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").digest()


def member(tree: str, path: str, status: os.stat_result, first: dict[Any, str]) -> tarfile.TarInfo:
    """The archive's record of one entry."""
    place = f"{tree}/{path}" if path else tree
    info = tarfile.TarInfo(f"{_TREE}/{path}" if path else _TREE)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    # Nanoseconds go as text of our own: a float has too few digits.
    info.pax_headers = {"LAYER.mtime": str(status.st_mtime_ns)}
    for name, value in attributes(place).items():
        info.pax_headers[_XATTR + name] = value.hex()
    kind = stat.S_IFMT(status.st_mode)
    info.type = {
        stat.S_IFDIR: tarfile.DIRTYPE,
        stat.S_IFLNK: tarfile.SYMTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE,
        stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFREG: tarfile.REGTYPE,
    }[kind]
    same = first.setdefault((status.st_dev, status.st_ino), path)
    if same != path and kind != stat.S_IFDIR:
        info.type, info.linkname = tarfile.LNKTYPE, f"{_TREE}/{same}"
    elif kind == stat.S_IFLNK:
        info.linkname = os.readlink(place)  # noqa: PTH115
    elif kind == stat.S_IFCHR:
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    elif kind == stat.S_IFREG:
        info.size = status.st_size
    return info


def pack(tree: str, out: BinaryIO, head: str) -> None:
    """Write the archive: the same layer gives the same bytes."""
    first: dict[Any, str] = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        with open(head, "rb") as file:  # noqa: PTH123
            info = tarfile.TarInfo(_HEAD)
            info.size = os.fstat(file.fileno()).st_size
            archive.addfile(info, file)
        for path, status in entries(tree):
            info = member(tree, path, status, first)
            if info.type == tarfile.REGTYPE:
                with open(f"{tree}/{path}", "rb") as file:  # noqa: PTH123
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


def unpack(tree: str, source: BinaryIO) -> None:
    """Fill the tree, an empty directory of the guest's root."""
    os.chroot(tree)
    os.chdir("/")
    sys.meta_path.clear()
    directories = []
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for info in archive:
            if info.name == _HEAD:
                continue
            path = inside(info.name)
            if info.type == tarfile.LNKTYPE:
                os.link(inside(info.linkname), path, follow_symlinks=False)
                continue
            put(archive, info, path)
            if info.isdir():
                directories.append((info, path))
    # The times of directories change while they are filled.
    for info, path in reversed(directories):
        set_time(info, path)


def inside(name: str) -> str:
    """The member's path in the chroot; ValueError for one that no archive of ours has."""
    head, _, path = name.partition("/")
    if head != _TREE or ".." in path.split("/"):
        raise ValueError(f"no layer's archive has a member {name!r}")
    return f"/{path}"


def put(archive: tarfile.TarFile, info: tarfile.TarInfo, path: str) -> None:
    """Make one entry that is no second name of another."""
    if info.isdir():
        if path != "/":
            os.mkdir(path, 0o700)  # noqa: PTH102
    elif info.issym():
        os.symlink(info.linkname, path)  # noqa: PTH211
    elif info.isfifo():
        os.mkfifo(path)
    elif info.ischr():
        if (info.devmajor, info.devminor) != (0, 0):
            raise ValueError(f"{info.name} is a device")
        os.mknod(path, stat.S_IFCHR | info.mode, 0)
    elif info.isreg():
        source = archive.extractfile(info)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            while source is not None and (piece := source.read(_PIECE)):
                file.write(piece)
    else:
        raise ValueError(f"{info.name} is of an unknown kind")
    os.chown(path, info.uid, info.gid, follow_symlinks=False)
    if not info.issym():
        os.chmod(path, info.mode)  # noqa: PTH101
    for name, value in info.pax_headers.items():
        if name.startswith(_XATTR):
            name = name.removeprefix(_XATTR)  # noqa: PLW2901
            os.setxattr(path, name, bytes.fromhex(value), follow_symlinks=False)
    set_time(info, path)


def set_time(info: tarfile.TarInfo, path: str) -> None:
    """Give the entry its own time."""
    when = int(info.pax_headers["LAYER.mtime"])
    os.utime(path, ns=(when, when), follow_symlinks=False)


def main(words: list[str]) -> None:
    """Do what the words say."""
    match words:
        case ["digest", tree]:
            sys.stdout.write(json.dumps(digest(tree)))
        case ["shape", tree]:
            sys.stdout.write(digest(tree, content=False)["shape"])
        case ["pack", tree, descriptor, head]:
            with os.fdopen(int(descriptor), "wb", closefd=False) as out:
                pack(tree, out, head)
        case ["unpack", tree, descriptor]:
            with os.fdopen(int(descriptor), "rb", closefd=False) as source:
                unpack(tree, source)
        case _:
            sys.exit(f"unknown words: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
