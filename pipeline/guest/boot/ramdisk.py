"""Look into a ramdisk: which modules it carries, without unpacking it or trusting it.

A ramdisk is cpio archives ("newc") one after another, each plain or compressed, with zeros
between them; the first is often plain and holds CPU microcode. Source: Linux,
Documentation/driver-api/early-userspace/buffer-format.rst, and lib/decompress.c for the magics.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import decoded, shown
from pipeline.guest.boot import framing
from pipeline.host.context import Tools
from pipeline.host.programs import PIPE
from pipeline.host.requirements import Requirement, declare

REQUIRES = declare(
    Requirement(
        "ramdisks",
        "reading ramdisks",
        unchecked={"lz4": "lz4", "zstd": "zstd", "xz": "xz-utils"},
        packages=("lz4", "zstd", "xz-utils"),
        needed=False,
    )
)

_CPIO = (b"070701", b"070702")
_HEADER = 110  # bytes: the magic and thirteen fields of eight hexadecimal digits
_PROGRAMS = {  # magic -> decompressor, for what Python 3.11 has no module for
    framing.ZSTD: "zstd",
    framing.LZ4_LEGACY: "lz4",
}
_PIECE = 1 << 18
_MAX_CONTENT = 4 << 30  # bytes unpacked; real ones have 20 to 500 MB
_MAX_MEMORY = 128 << 20  # for xz's dictionary; `xz -9`, the largest preset, needs 65 MiB
_MAX_STREAMS = 64  # compressed archives in one ramdisk; image builders make two or three
_MAX_ENTRIES = 500_000
_MAX_NAME = 4096
_MAX_KEPT = 64 << 10  # bytes of one kept file
_MODULE = re.compile(r"(?:usr/)?lib/modules/([^/]+)/(?:.*/)?([^/]+)\.ko(?:\.(?:gz|xz|zst))?")
_KEPT = re.compile(r"etc/cmdline\.d/[^/]+\.conf|etc/cmdline|conf/conf\.d/resume")
_BUILTIN = re.compile(r"(?:usr/)?lib/modules/([^/]+)/modules\.builtin")
_EARLY = "kernel"  # what the kernel itself reads before there is a root: microcode, ACPI tables
_MAKERS = {  # a path that only this tool's ramdisks have
    "booster": re.compile(r"etc/booster\.init\.yaml"),
    "dracut": re.compile(r"(?:usr/)?lib/dracut(?:/.*)?"),
    "initramfs-tools": re.compile(r"conf/(?:initramfs|arch)\.conf"),
    "mkinitcpio": re.compile(r"buildconfig|init_functions"),
}


@dataclass
class Ramdisk:
    """What was found.

    modules: version -> names with "_". builtin: version -> its modules.builtin, where the
    ramdisk has one. files: small settings by path. makers: tools that leave
    such files. is_early: it holds nothing but what the kernel reads before there is a root.
    """

    entries: int = 0
    compression: set[str] = field(default_factory=set)
    modules: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    builtin: dict[str, str] = field(default_factory=dict)
    makers: set[str] = field(default_factory=set)
    is_early: bool = True


class _DamagedError(Exception):
    """Why the kernel could not read it; turned into GuestError by `scan`."""


class _Stream:
    """Bytes from pieces, with a look ahead and a way back."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._ahead, self._left = pieces, b"", _MAX_CONTENT

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._left -= len(piece)
            if self._left < 0:
                raise _DamagedError(f"it unpacks to more than {_MAX_CONTENT >> 30} GiB")
            self._ahead += piece
        return self._ahead[:size]

    def take(self, size: int) -> bytes:
        data = self.peek(size)
        self._ahead = self._ahead[len(data) :]
        return data

    def skip(self, size: int) -> None:
        while size:
            self.peek(1)
            got = min(size, len(self._ahead))
            if not got:
                raise _DamagedError("it ends in the middle of a file")
            self._ahead = self._ahead[got:]
            size -= got

    def skip_zeros(self) -> None:
        while self.peek(1) == b"\0":
            self._ahead = self._ahead.lstrip(b"\0")

    def push_back(self, data: bytes) -> None:
        self._ahead = data + self._ahead

    @property
    def buffered(self) -> int:
        return len(self._ahead)


def scan(path: Path, tools: Tools) -> Ramdisk:
    """Read all of a ramdisk. GuestError when the kernel could not read it either."""
    found = Ramdisk()
    try:
        with path.open("rb", buffering=0) as file:
            _scan_file(file, found, tools)
    except (_DamagedError, framing.FrameError, zlib.error, lzma.LZMAError, OSError) as error:
        raise GuestError(
            "read the ramdisk",
            path,
            why=shown(str(error)),
            next_step="Have the kickstart's %post make it again",
        ) from error
    return found


def _scan_file(file: BinaryIO, found: Ramdisk, tools: Tools) -> None:
    outer = _Stream(iter(lambda: file.read(_PIECE), b""))
    streams = 0
    while True:
        outer.skip_zeros()
        magic = outer.peek(6)
        if not magic and not found.entries:
            raise _DamagedError("it holds no files")
        if not magic:
            return
        program = _PROGRAMS.get(magic[:4])
        if magic in _CPIO:
            found.compression.add("none")
            _scan_archive(outer, found)
        elif program:
            found.compression.add(program)
            start = os.lseek(file.fileno(), -outer.buffered, os.SEEK_CUR)
            end = framing.stream_end(file, start)
            file.seek(start)
            _scan_through(program, file, found, tools)
            file.seek(end)
            outer = _Stream(iter(lambda: file.read(_PIECE), b""))
        else:
            _scan_archives(_Stream(_decompressed(outer, magic, found)), found)
        streams += magic not in _CPIO
        if streams > _MAX_STREAMS:
            raise _DamagedError(f"it has more than {_MAX_STREAMS} compressed archives")


def _scan_through(program: str, file: BinaryIO, found: Ramdisk, tools: Tools) -> None:
    """Unpack the stream at the file's position.

    The exit status says nothing: what lies behind the stream, which the kernel accepts, is an
    error to these programs; a stream that is cut short shows in the archive.
    """
    with tools.run.start([program, "-dcqq"], stdin=file, stdout=PIPE) as running:
        output = running.process.stdout
        assert output is not None
        descriptor = output.fileno()
        _scan_archives(_Stream(iter(lambda: os.read(descriptor, _PIECE), b"")), found)


def _decompressed(outer: _Stream, magic: bytes, found: Ramdisk) -> Iterator[bytes]:
    """Pieces of the compressed stream that begins here; `outer` is left just behind it."""
    if magic[:2] == b"\x1f\x8b":
        found.compression.add("gzip")
        yield from _inflated(outer)
    elif magic == b"\xfd7zXZ\0" or magic[:3] == b"\x5d\0\0":
        found.compression.add("xz")
        yield from _expanded(outer, lzma.LZMADecompressor(memlimit=_MAX_MEMORY))
    elif magic[:3] == b"BZh":
        found.compression.add("bzip2")
        yield from _expanded(outer, bz2.BZ2Decompressor())
    else:
        raise _DamagedError(f"it has {magic.hex(' ')} where an archive should begin")


def _inflated(outer: _Stream) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)  # 31: with gzip's header
    piece = b""
    while not unpacker.eof:
        data = unpacker.unconsumed_tail or outer.take(_PIECE)
        if not data and len(piece) < _PIECE:
            raise _DamagedError("its compressed stream is cut short")
        piece = unpacker.decompress(data, _PIECE)
        if piece:
            yield piece
    outer.push_back(unpacker.unused_data)


def _expanded(
    outer: _Stream, unpacker: lzma.LZMADecompressor | bz2.BZ2Decompressor
) -> Iterator[bytes]:
    while not unpacker.eof:
        data = outer.take(_PIECE) if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            raise _DamagedError("its compressed stream is cut short")
        try:
            piece = unpacker.decompress(data, _PIECE)
        except EOFError as error:
            raise _DamagedError(str(error)) from error
        if piece:
            yield piece
    outer.push_back(unpacker.unused_data)


def _scan_archives(stream: _Stream, found: Ramdisk) -> None:
    while True:
        stream.skip_zeros()
        if not stream.peek(1):
            return
        _scan_archive(stream, found)


def _scan_archive(stream: _Stream, found: Ramdisk) -> None:
    while True:
        header = stream.take(_HEADER)
        try:
            fields = struct.unpack(">13I", bytes.fromhex(header[6:].decode("ascii")))
        except (ValueError, struct.error):
            fields = ()
        if header[:6] not in _CPIO or not fields:
            raise _DamagedError("its archive is damaged or ends too early")
        mode, size, name_size = fields[1], fields[6], fields[11]
        if not 0 < name_size <= _MAX_NAME:
            raise _DamagedError("its archive has a name that is too long")
        name = decoded(stream.take(name_size).rstrip(b"\0"))
        stream.skip(-(_HEADER + name_size) % 4)
        if name == "TRAILER!!!":
            return
        found.entries += 1
        if found.entries > _MAX_ENTRIES:
            raise _DamagedError(f"it has more than {_MAX_ENTRIES} files")
        name = name.removeprefix("./").lstrip("/")
        if match := _MODULE.fullmatch(name):
            found.modules.setdefault(match[1], set()).add(match[2].replace("-", "_"))
        found.makers |= {tool for tool, sign in _MAKERS.items() if sign.fullmatch(name)}
        found.is_early = found.is_early and name.partition("/")[0] in ("", ".", _EARLY)
        listing = _BUILTIN.fullmatch(name)
        if mode & 0xF000 != 0x8000 or size > _MAX_KEPT:
            stream.skip(size)
        elif listing:
            found.builtin[listing[1]] = stream.take(size).decode(errors="replace")
        elif _KEPT.fullmatch(name):
            found.files[name] = stream.take(size).decode(errors="replace")
        else:
            stream.skip(size)
        stream.skip(-size % 4)
