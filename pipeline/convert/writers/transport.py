"""Compresses and unpacks files for transport: gzip, xz, zstd, by all processors.

The compressed forms are ordinary: gzip of several members (RFC 1952, 2.2), xz of several streams
and zstd of several frames, which their own tools unpack as one. Pieces are cut at fixed places, so
that the bytes do not depend on the number of processors; nothing in them depends on time or name.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import zstandard

from pipeline.convert.writers.pieces import worked
from pipeline.core.errors import DiskError, InputError
from pipeline.core.events import Meter

Packing = Literal["gzip", "xz", "zstd"]
SUFFIXES: dict[Packing, str] = {"gzip": ".gz", "xz": ".xz", "zstd": ".zst"}

_PIECE = {"gzip": 1 << 20, "xz": 8 << 20, "zstd": 4 << 20}
"""Bytes a piece: over these a larger one saves less than one per cent."""
_CHUNK = 1 << 20
_SECTOR = 4096
_GZIP_LEVEL, _XZ_LEVEL, _ZSTD_LEVEL = 6, 3, 6
_MAGIC: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
_ZSTD_SKIPPED = range(0x184D2A50, 0x184D2A60)  # frames of other content, RFC 8878, 3.1.2
_ZSTD_BITE = 2048
"""Bytes given to zstd at once: four of them may stand for 128 KiB of zeros, and all that they stand
for comes back as one."""
_WINDOW = 1 << 27  # bytes that a zstd frame may ask for, as `zstd -d` allows


def pack(source: Path, target: Path, packing: Packing, meter: Meter | None = None) -> None:
    """Compress a file; its holes cost nothing to read.

    target: is made anew. OSError where either cannot be read or written.
    """
    compress = _COMPRESS[packing]
    with source.open("rb") as file, target.open("wb") as out:
        for _, piece, packed in worked(_pieces(file, _PIECE[packing]), compress):
            out.write(packed)
            if meter is not None:
                meter.advance(len(piece))
        if not out.tell():
            out.write(compress(b""))


def _pieces(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    number = 0
    while piece := file.read(size):
        yield number, piece
        number += 1


def packing_of(path: Path) -> str:
    """How a file is compressed, by its first bytes: gzip, xz, zstd, bzip2, or "" for not at all."""
    with path.open("rb") as file:
        head = file.read(6)
    if int.from_bytes(head[:4], "little") in _ZSTD_SKIPPED and len(head) >= 4:
        return "zstd"
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def unpack(source: Path, target: Path, most: int, meter: Meter | None = None) -> None:
    """Write what a compressed file holds, zeros as holes.

    most: bytes it may grow to. target: is made anew. InputError for a file that is not compressed
    in a known way or grows beyond `most`; DiskError for one that is damaged or cut off.
    """
    packing = packing_of(source)
    if not packing:
        raise InputError(
            "unpack",
            source,
            why="it is compressed in no known way",
            next_step="Give a file of gzip, xz, zstd or bzip2",
        )
    with target.open("wb") as out:
        _write_sparse(unpacked(source), out, source, most, meter)


def unpacked(source: Path) -> Iterator[bytes]:
    """What a file of gzip, xz, zstd or bzip2 holds, in pieces of bounded size.

    DiskError for one that is damaged or cut off; OSError where it cannot be read.
    """
    packing = packing_of(source)
    try:
        with source.open("rb") as packed:
            yield from _UNPACK[packing](packed)
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise _damaged(source, packing, str(error)) from error
    except OSError as error:
        if error.errno is None:  # bz2's words for damage
            raise _damaged(source, packing, str(error)) from error
        raise


def _damaged(source: Path, packing: str, why: str) -> DiskError:
    return DiskError(
        f"unpack the {packing} file",
        source,
        why=f"it is damaged or cut off: {why}",
        next_step="Fetch it again",
    )


def _write_sparse(
    chunks: Iterator[bytes], out: BinaryIO, source: Path, most: int, meter: Meter | None
) -> None:
    zeros = bytes(_SECTOR)
    at = 0
    for chunk in chunks:
        if at + len(chunk) > most:
            raise InputError(
                "unpack",
                source,
                why=f"it holds more than {most} bytes",
                next_step="Unpack it yourself where there is room, and give the result",
            )
        for begin in range(0, len(chunk), _SECTOR):
            piece = chunk[begin : begin + _SECTOR]
            if piece != zeros[: len(piece)]:
                out.seek(at + begin)
                out.write(piece)
        at += len(chunk)
        if meter is not None:
            meter.advance(len(chunk))
    out.truncate(at)


def _gzip(piece: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return packer.compress(piece) + packer.flush()


def _xz(piece: bytes) -> bytes:
    return lzma.compress(piece, check=lzma.CHECK_CRC64, preset=_XZ_LEVEL)


def _zstd(piece: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(piece)


def _chunks(file: gzip.GzipFile | lzma.LZMAFile | bz2.BZ2File) -> Iterator[bytes]:
    with file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _gunzip(packed: BinaryIO) -> Iterator[bytes]:
    return _chunks(gzip.GzipFile(fileobj=packed))


def _unxz(packed: BinaryIO) -> Iterator[bytes]:
    return _chunks(lzma.LZMAFile(packed))


def _bunzip2(packed: BinaryIO) -> Iterator[bytes]:
    return _chunks(bz2.BZ2File(packed))


def _frames(packed: BinaryIO) -> Iterator[bytes]:
    """All frames of a zstd file; EOFError where the last is cut off."""
    unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    frame = unpacker.decompressobj()
    begun = False
    while data := packed.read(_ZSTD_BITE):
        while data:
            begun = True
            yield frame.decompress(data)
            if not frame.eof:
                break
            data = frame.unused_data
            frame, begun = unpacker.decompressobj(), False
    if begun:
        raise EOFError("the last frame is not whole")


_COMPRESS: dict[Packing, Callable[[bytes], bytes]] = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}
_UNPACK: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    "gzip": _gunzip,
    "xz": _unxz,
    "bzip2": _bunzip2,
    "zstd": _frames,
}
