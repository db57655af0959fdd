"""The root file system of a disk as one tar.gz: what hosts take that boot from a file system.

The root is chosen and copied as for a build, so that its journal is replayed and e2fsck has found
it whole, and is then read by our own reader of ext: owners, times, devices, hard links, attributes
and ACLs are those of the disk. Nothing of it is customised. A separate /boot is left out.
"""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from pipeline.convert.choose import choose_root
from pipeline.convert.conversion import Converted
from pipeline.convert.ext4.tarball import write_archive
from pipeline.convert.ext4.tree import KINDS, Entry
from pipeline.convert.extract import opened
from pipeline.convert.survey import EXT, survey
from pipeline.convert.volume_copy import take
from pipeline.core.errors import DiskError, InputError
from pipeline.core.image import DiskImage
from pipeline.disk.filesystems.ext_inodes import ROOT_INODE, Inode, Reader
from pipeline.host.context import Tools
from pipeline.host.files import finish, naming

_MOST_ENTRIES, _MOST_DEPTH = 2_000_000, 200
_INLINE = 0x10000000
_PIECE = 1 << 20
_LATEST = 1 << 40  # seconds since 1970: no entry's time is cut
_KEPT = ("security.", "user.", "system.posix_acl_")
_ACL = "system.posix_acl_"
_NAMED_USER, _NAMED_GROUP, _NOBODY = 0x02, 0x08, 0xFFFFFFFF
_EPOCH_BITS = 3
_EXTRA_FIELDS = 0x8C - 128  # bytes of an inode beyond 128 that hold the fraction of its time


def write(disk: DiskImage, root: str, out: Path, tools: Tools, *, most: int) -> Converted:
    """Write the archive of the disk's root under its final name.

    root: which volume it is, "" to find it by inspection. most: bytes that a compressed disk, and
    the archive's files, may have. Raises what `extract` raises; InputError for a root that is no
    ext file system.
    """
    with opened(disk, tools, most=most) as source:
        found = survey(source)
        candidate = choose_root(found, root, str(disk.path))
        if candidate.filesystem not in EXT:
            raise InputError(
                "write an archive of the root of",
                disk.path,
                why=f"it is {candidate.filesystem}; owners and attributes are read from ext alone",
                next_step="Convert the whole disk instead, to raw or qcow2",
            )
        taken = take(candidate, tools.scratch / "root.img", tools)
    partial = tools.scratch / "root.tar.gz"
    with (
        naming(out),
        Reader(taken.image.path) as reader,
        partial.open("wb") as file,
        tools.progress.task("Packing the root file system", None) as meter,
    ):
        tree = _Tree(reader, most)

        def read(entry: Entry) -> Iterator[bytes]:
            meter.advance(entry.size)
            return tree.content(entry)

        write_archive(tree.entries, file, _LATEST, read)
    with partial.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    status = partial.stat()
    finish(partial, out)
    notes = (*found.notes, *taken.notes)
    return Converted(out, 0, status.st_size, status.st_blocks * 512, digest, notes)


class _Tree:
    """The entries of an ext file system, in the order of their paths."""

    def __init__(self, reader: Reader, most: int) -> None:
        self._reader, self._left = reader, most
        self._numbers: dict[bytes, int] = {}
        found = sorted(self._walk(), key=lambda entry: entry.path)
        first: dict[int, bytes] = {}
        self.entries = [self._once(entry, first) for entry in found]

    def _once(self, entry: Entry, first: dict[int, bytes]) -> Entry:
        """The entry, or a link to the one of the same inode before it."""
        if entry.kind == "directory":
            return entry
        number = self._numbers[entry.path]
        if number in first:
            return _linked(entry, first[number])
        first[number] = entry.path
        return entry

    def content(self, entry: Entry) -> Iterator[bytes]:
        """A file's bytes, zeros for its holes."""
        inode = self._reader.inode(self._numbers[entry.path])
        if inode.flags & _INLINE:
            yield self._reader.content(inode, inode.size)
            return
        at = 0
        for offset, data in self._reader.chunks(inode):
            yield from _zeros(offset - at)
            yield data
            at = offset + len(data)
        yield from _zeros(inode.size - at)

    def _walk(self) -> Iterator[Entry]:
        seen: set[int] = set()
        count = 0
        waiting = [(b"", ROOT_INODE, 0)]
        while waiting:
            path, number, depth = waiting.pop()
            inode = self._reader.inode(number)
            entry = self._entry(path, inode)
            count += 1
            if entry.kind == "directory":
                if number in seen or depth > _MOST_DEPTH:
                    raise self._reader.broken(f"the directory {path!r} leads to itself")
                seen.add(number)
                for name, child in self._reader.entries(inode).items():
                    waiting.append((path + b"/" + name if path else name, child, depth + 1))
            self._left -= entry.size
            if count > _MOST_ENTRIES or self._left < 0:
                raise DiskError(
                    "read the root file system of",
                    self._reader.source.name,
                    why="it says that it holds more than there can be",
                    next_step="Check it with e2fsck, or raise --most",
                )
            self._numbers[path] = number
            yield entry

    def _entry(self, path: bytes, inode: Inode) -> Entry:
        kind = KINDS.get(stat.S_IFMT(inode.mode))
        if kind is None:
            raise self._reader.broken(f"inode {inode.number} is of no known kind")
        status = inode.status()
        attributes = sorted(self._reader.xattrs(inode).items())
        return Entry(
            path,
            kind,
            status.mode,
            status.uid,
            status.gid,
            _mtime(inode),
            inode.size if kind == "file" else 0,
            rdev=_device(inode) if kind in ("character", "block") else (0, 0),
            target=self._reader.link_target(inode) if kind == "symlink" else b"",
            xattrs=tuple(
                (name, _acl(value) if name.startswith(_ACL) else value)
                for name, value in attributes
                if name.startswith(_KEPT)
            ),
        )


def _linked(entry: Entry, path: bytes) -> Entry:
    """The entry as a hard link to `path`."""
    return entry._replace(same_as=path)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield bytes(min(count, _PIECE))
        count -= _PIECE


def _mtime(inode: Inode) -> int:
    """Nanoseconds since 1970."""
    (seconds,) = struct.unpack_from("<i", inode.raw, 0x10)
    extra = 0
    if len(inode.raw) > 130 and int.from_bytes(inode.raw[0x80:0x82], "little") >= _EXTRA_FIELDS:
        extra = int.from_bytes(inode.raw[0x88:0x8C], "little")
    # Two bits count the times that 32 bits of seconds have passed over.
    whole = int(seconds) + ((extra & _EPOCH_BITS) << 32)
    return whole * 10**9 + (extra >> 2)


def _device(inode: Inode) -> tuple[int, int]:
    """(major, minor): of 8 bits each in the first number, or of 12 and 20 in the second."""
    old, new = struct.unpack_from("<II", inode.map)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)


def _acl(value: bytes) -> bytes:
    """An ACL as getxattr(2) gives it, of what ext keeps: there only named entries have an id."""
    out = struct.pack("<I", 2)
    at = 4
    while at + 4 <= len(value):
        tag, rights = struct.unpack_from("<HH", value, at)
        at += 4
        identity = _NOBODY
        if tag in (_NAMED_USER, _NAMED_GROUP) and at + 4 <= len(value):
            (identity,) = struct.unpack_from("<I", value, at)
            at += 4
        out += struct.pack("<HHI", tag, rights, identity)
    return out
