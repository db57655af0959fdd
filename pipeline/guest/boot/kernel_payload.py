"""Unpacks the payload of a packed arm64 kernel: piece by piece, bounded, nothing trusted.

Behind most streams Linux puts how large they unpack; the header of an EFI zboot kernel counts the
stream alone (drivers/firmware/efi/libstub/Makefile.zboot, ZBOOT_SIZE_LEN). What lies behind the end
of one of gzip or xz is left alone.
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline.host.context import Tools
from pipeline.host.programs import PIPE
from pipeline.host.sparse import pieces

_PIECE = 1 << 20
_MAX_MEMORY = 128 << 20  # for xz's dictionary; `xz -9`, the largest preset, needs 65 MiB
_PROGRAMS = {"zstd": "zstd", "lz4": "lz4"}  # what Python 3.11 has no module for


class PayloadError(Exception):
    """Why the payload cannot be unpacked."""


def unpacked(
    file: BinaryIO, compression: str, place: tuple[int, int], limit: int, tools: Tools | None
) -> Iterator[bytes]:
    """Pieces of what is packed. place: offset and bytes of the payload in the file.

    limit: bytes that are expected at most. tools: None gives nothing where a program is needed.
    Raises PayloadError for a stream that is cut short or damaged, or a compression not known here.
    """
    left = limit
    try:
        for piece in _unpacked(file, compression, place, tools):
            left -= len(piece)
            if left < 0:
                raise PayloadError(f"it unpacks to more than {limit >> 20} MiB")
            yield piece
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise PayloadError(f"what is packed in it is damaged: {error}") from error


def _unpacked(
    file: BinaryIO, compression: str, place: tuple[int, int], tools: Tools | None
) -> Iterator[bytes]:
    if compression == "gzip":
        return _inflated(_stored(file, place))
    if compression == "xzkern":
        return _expanded(lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_MEMORY), _stored(file, place))
    if compression == "lzma":
        return _expanded(
            lzma.LZMADecompressor(lzma.FORMAT_ALONE, _MAX_MEMORY), _stored(file, place)
        )
    if compression not in _PROGRAMS:
        raise PayloadError(f"it is packed by {compression!r}, which is not known here")
    if tools is None:
        return iter(())
    return _through(_PROGRAMS[compression], file, place, tools)


def _stored(file: BinaryIO, place: tuple[int, int]) -> Iterator[bytes]:
    for at, length in pieces(*place, _PIECE):
        data = os.pread(file.fileno(), length, at)
        if not data:
            return
        yield data


def _inflated(stored: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=31)  # 31: with gzip's header
    while not unpacker.eof:
        data = unpacker.unconsumed_tail or next(stored, b"")
        piece = unpacker.decompress(data, _PIECE)
        if not data and not piece:
            raise PayloadError("what is packed in it is cut short")
        yield piece


def _expanded(unpacker: lzma.LZMADecompressor, stored: Iterator[bytes]) -> Iterator[bytes]:
    while not unpacker.eof:
        data = next(stored, b"") if unpacker.needs_input else b""
        if unpacker.needs_input and not data:
            raise PayloadError("what is packed in it is cut short")
        yield unpacker.decompress(data, _PIECE)


def _through(program: str, file: BinaryIO, place: tuple[int, int], tools: Tools) -> Iterator[bytes]:
    """Unpack by a program, which gets the stream alone: what lies behind is an error to it."""
    out = Path(tools.scratch) / "payload"
    try:
        with out.open("wb") as target:
            for data in _stored(file, place):
                target.write(data)
        with (
            out.open("rb") as source,
            tools.run.start([program, "-dcqq"], stdin=source, stdout=PIPE) as running,
        ):
            output = running.process.stdout
            assert output is not None
            while data := os.read(output.fileno(), _PIECE):
                yield data
            if running.process.wait():
                raise PayloadError(f"what is packed in it is damaged: {program} cannot unpack it")
    finally:
        out.unlink(missing_ok=True)
