"""Making images of small trees, and reading them back by our reader alone."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from pipeline.convert.ext4.geometry import Parameters
from pipeline.convert.ext4.tree import Entry
from pipeline.convert.ext4.writer import Written, write_image
from pipeline.disk.filesystems.ext_inodes import Inode, Reader

EPOCH = 1_780_000_000
MIB = 1 << 20
_FORMATS = {
    "file": 0x8000, "directory": 0x4000, "symlink": 0xA000, "character": 0x2000,
    "block": 0x6000, "fifo": 0x1000, "socket": 0xC000,
}  # fmt: skip


def parameters(size: int = 16 * MIB, **fields: object) -> Parameters:
    """Fixed ones but for what is given."""
    chosen: dict[str, object] = {
        "size": size,
        "uuid": UUID(int=1),
        "hash_seed": UUID(int=2),
        "label": "root",
        "epoch": EPOCH,
    }
    return Parameters(**chosen | fields)  # type: ignore[arg-type]


def make(entries: Sequence[Entry], path: Path, chosen: Parameters | None = None) -> Written:
    """Write the image of the entries to a path."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        return write_image(entries, descriptor, chosen or parameters())
    finally:
        os.close(descriptor)


def fsck(path: Path) -> None:
    """e2fsck has nothing to say against it."""
    done = subprocess.run(
        ["e2fsck", "-fn", path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Its last line is a summary; others would be remarks.
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("Pass ")]
    assert lines[:-1] == []


def assert_equal(entries: Sequence[Entry], path: Path, epoch: int = EPOCH) -> None:
    """The image has just these entries with all that they say, and lost+found."""
    with Reader(path) as reader:
        found = dict(_walk(reader))
        names = {entry.path for entry in entries} | {b"lost+found"}
        assert set(found) == names
        for entry in entries:
            inode = found[entry.path]
            expected = _expected(entry, epoch)
            assert _told(reader, inode, entry) == expected, entry.path
            assert inode.number == found[entry.same_as or entry.path].number
            if entry.host:
                assert _content(reader, inode) == Path(os.fsdecode(entry.host)).read_bytes()


def _walk(reader: Reader) -> Iterator[tuple[bytes, Inode]]:
    waiting = [(b"", reader.inode(2))]
    while waiting:
        path, inode = waiting.pop()
        yield path, inode
        if inode.mode & 0xF000 == 0x4000:
            for name, number in reader.directory(inode).items():
                waiting.append((path + b"/" + name if path else name, reader.inode(number)))


def _expected(entry: Entry, epoch: int) -> tuple[object, ...]:
    return (
        _FORMATS[entry.kind] | entry.mode,
        entry.uid,
        entry.gid,
        min(entry.mtime, epoch * 10**9),
        entry.size,
        entry.target,
        entry.rdev,
        {name: _stored(name, value) for name, value in entry.xattrs},
        0 if entry.kind == "directory" else entry.links,
    )


def _told(reader: Reader, inode: Inode, entry: Entry) -> tuple[object, ...]:
    raw = inode.raw
    seconds, extra = struct.unpack_from("<i", raw, 0x10)[0], struct.unpack_from("<I", raw, 0x88)[0]
    time = (seconds + ((extra & 3) << 32)) * 10**9 + (extra >> 2)
    (links,) = struct.unpack_from("<H", raw, 0x1A)
    status = inode.status()
    kind = inode.mode & 0xF000
    return (
        inode.mode,
        status.uid,
        status.gid,
        time,
        inode.size if kind == 0x8000 else 0,
        reader.link_target(inode) if kind == 0xA000 else b"",
        _device(raw) if kind in (0x2000, 0x6000) else (0, 0),
        reader.xattrs(inode),
        0 if kind == 0x4000 else links,
    )


def _device(raw: bytes) -> tuple[int, int]:
    """Linux, fs/ext4/inode.c and include/linux/kdev_t.h: the old form, or the new one."""
    old, new = struct.unpack_from("<II", raw, 0x28)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)


def _stored(name: str, value: bytes) -> bytes:
    """POSIX ACLs have ids for named users and groups alone on the disk."""
    if not name.startswith("system.posix_acl_"):
        return value
    parts = [b"\1\0\0\0"]
    for tag, mode, number in struct.iter_unpack("<HHI", value[4:]):
        parts.append(struct.pack("<HH", tag, mode))
        if tag in (0x02, 0x08):
            parts.append(struct.pack("<I", number))
    return b"".join(parts)


def _content(reader: Reader, inode: Inode) -> bytes:
    content = bytearray(inode.size)
    for at, data in reader.chunks(inode):
        content[at : at + len(data)] = data
    return bytes(content)
