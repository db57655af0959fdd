"""A canonical tar.gz of a tree: the same entries give the same bytes, whoever packs them.

POSIX pax format: names as "./PATH" in the order of the entries, numeric owners without any name,
times of whole seconds in the plain header and finer ones in a record, attributes as
SCHILY.xattr.NAME as GNU tar and bsdtar know them. Holes are zeros; sockets are left out, as tar
has no word for them. The gzip header has neither name nor time. The stream is compressed in pieces
of fixed size, each on its own, so that the number of processors does not show.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from isal import isal_zlib

from pipeline.convert.ext4.contents import BUFFER, changed, opened
from pipeline.convert.ext4.tree import Entry, Kind

_BLOCK, _RECORD = 512, 20 * 512
_PIECE = 4 << 20  # bytes that are compressed on their own
_THREADS = 2
_LEVEL = 2  # of 0 to 3
_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # deflate, no flags, no time, unknown system
_LAST_BLOCK = b"\x03\0"
_TYPES: dict[Kind, bytes] = {
    "file": b"0",
    "symlink": b"2",
    "character": b"3",
    "block": b"4",
    "directory": b"5",
    "fifo": b"6",
}
_MOST_OF_NAME = 100
_MOST_OF_ID = 0o7777777
_MOST_OF_NUMBER = 0o77777777777  # size and time


def write_archive(
    entries: Sequence[Entry],
    target: BinaryIO,
    epoch: int,
    read: Callable[[Entry], Iterator[bytes]] | None = None,
) -> int:
    """Write the archive of the entries; its size in bytes.

    epoch: seconds since 1970, the latest time that an entry keeps. read: the bytes of a file, as
    many as its size; by default those of the host's file that it names. HostError for a file that
    cannot be read or changed meanwhile; OSError where the archive cannot be written.
    """
    size = target.write(_HEADER)
    check = length = 0
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        for piece in _pieces(_stream(entries, epoch, read or _content)):
            check, length = isal_zlib.crc32(piece, check), length + len(piece)
            waiting.append(threads.submit(_compressed, piece))
            if len(waiting) > _THREADS:
                size += target.write(waiting.popleft().result())
        while waiting:
            size += target.write(waiting.popleft().result())
    end = check.to_bytes(4, "little") + (length & 0xFFFFFFFF).to_bytes(4, "little")
    return size + target.write(_LAST_BLOCK + end)


def _compressed(piece: bytes) -> bytes:
    """A piece as deflate blocks that end at a byte and refer to nothing before them."""
    deflate = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -15)
    return bytes(deflate.compress(piece) + deflate.flush(isal_zlib.Z_FULL_FLUSH))


def _pieces(stream: Iterator[bytes]) -> Iterator[bytes]:
    """The stream cut after every _PIECE bytes."""
    parts: list[bytes] = []
    size = 0
    for data in stream:
        parts.append(data)
        size += len(data)
        if size >= _PIECE:
            whole = b"".join(parts)
            full = size // _PIECE * _PIECE
            for start in range(0, full, _PIECE):
                yield whole[start : start + _PIECE]
            parts, size = [whole[full:]], size - full
    if size:
        yield b"".join(parts)


def _stream(
    entries: Sequence[Entry], epoch: int, read: Callable[[Entry], Iterator[bytes]]
) -> Iterator[bytes]:
    """The archive before its compression."""
    total = 0
    for entry in entries:
        if entry.kind == "socket":
            continue
        head = _head(entry, epoch * 10**9)
        yield head
        total += len(head)
        if entry.kind == "file" and entry.size and not entry.same_as:
            yield from read(entry)
            padding = bytes(-entry.size % _BLOCK)
            yield padding
            total += entry.size + len(padding)
    end = 2 * _BLOCK
    yield bytes(end + -(total + end) % _RECORD)


def _content(entry: Entry) -> Iterator[bytes]:
    descriptor = opened(entry)
    try:
        left = entry.size
        while left:
            data = os.read(descriptor, min(left, BUFFER))
            if not data:
                raise changed(entry)
            left -= len(data)
            yield data
    finally:
        os.close(descriptor)


def _head(entry: Entry, latest: int) -> bytes:
    """The headers of an entry: a pax record first, where the plain one cannot say all."""
    name = b"./" + entry.path + (b"/" if entry.kind == "directory" and entry.path else b"")
    target = b"./" + entry.same_as if entry.same_as else entry.target
    seconds, fraction = divmod(min(entry.mtime, latest), 10**9)
    size = entry.size if entry.kind == "file" and not entry.same_as else 0
    records: list[tuple[bytes, bytes]] = []
    if len(name) > _MOST_OF_NAME:
        records.append((b"path", name))
    if len(target) > _MOST_OF_NAME:
        records.append((b"linkpath", target))
    if fraction or not 0 <= seconds <= _MOST_OF_NUMBER:
        records.append((b"mtime", _decimal(seconds, fraction)))
        seconds = min(max(seconds, 0), _MOST_OF_NUMBER)
    ids = [entry.uid, entry.gid]
    for at, word in enumerate((b"uid", b"gid")):
        if ids[at] > _MOST_OF_ID:
            records.append((word, b"%d" % ids[at]))
            ids[at] = 0
    if size > _MOST_OF_NUMBER:
        records.append((b"size", b"%d" % size))
        size = 0
    if not entry.same_as:
        for attribute, value in entry.xattrs:
            word = os.fsencode(attribute).replace(b"%", b"%25").replace(b"=", b"%3D")
            records.append((b"SCHILY.xattr." + word, value))
    kind = b"1" if entry.same_as else _TYPES[entry.kind]
    numbers = (entry.mode, *ids, size, seconds)
    plain = _plain(name, numbers, kind, target=target, rdev=entry.rdev)
    if not records:
        return plain
    body = b"".join(_record(word, value) for word, value in records)
    extended = _plain(b"./PaxHeaders/" + name[2:][:80], (0o644, 0, 0, len(body), seconds), b"x")
    return extended + body.ljust(-(-len(body) // _BLOCK) * _BLOCK, b"\0") + plain


def _decimal(seconds: int, fraction: int) -> bytes:
    """A time as pax writes it; before 1970 the fraction counts the other way."""
    sign = b""
    if seconds < 0:
        sign, seconds, fraction = b"-", -seconds - bool(fraction), -fraction % 10**9
    digits = b".%09d" % fraction if fraction else b""
    return sign + b"%d" % seconds + digits.rstrip(b"0")


def _record(word: bytes, value: bytes) -> bytes:
    """ "LENGTH WORD=VALUE\\n", whose length counts itself."""
    rest = len(word) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %b=%b\n" % (length, word, value)


def _plain(
    name: bytes,
    numbers: tuple[int, ...],
    kind: bytes,
    *,
    target: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
) -> bytes:
    """A ustar header. numbers: mode, owner, group, size, seconds."""
    fields = b"".join(
        (
            name[:_MOST_OF_NAME].ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers,
            b" " * 8,
            kind,
            target[:_MOST_OF_NAME].ljust(100, b"\0"),
            b"ustar\00000",
            bytes(64),
            b"%07o\0%07o\0" % rdev,
        )
    ).ljust(_BLOCK, b"\0")
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
