"""The inner part of a bundle: a raw image as the only member of a gzipped tar, on all cores.

One gzip member, not several: single-stream readers (Python's tarfile in stream mode, as used by
OpenStack's ec2-api) stop at the end of the first. The deflate stream is made of pieces that are
compressed on their own and end at a byte boundary with an empty stored block (RFC 1951, 3.2.4;
zlib's Z_SYNC_FLUSH), so they can be made at once and joined; their CRCs are combined.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import isal
from isal import isal_zlib

from pipeline.disk.blocks.source import RawFile
from pipeline.host.pools import threads

Compression = Literal["fast", "small"]
"""fast: ISA-L, several times zlib's speed. small: zlib level 6, some 10 % fewer bytes to send."""

PIECE = 1 << 20  # bytes of image compressed on their own: ends of pieces cost 5 bytes in a MiB
_ZEROS = bytes(PIECE)
# RFC 1952: magic, deflate, no flags, no time (equal images give equal bundles), no XFL, Unix.
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03"
_RAW_DEFLATE = -15  # zlib's wbits for a 32 KiB window without header


@dataclass(frozen=True)
class _Deflated:
    data: bytes
    crc: int


def implementation(compression: Compression) -> str:
    """What decides the bytes `archive` makes of an image, besides the image and its name."""
    library = isal.ISAL_VERSION if compression == "fast" else zlib.ZLIB_RUNTIME_VERSION
    return f"1 {compression} {library} {PIECE}"


def archive(
    image: RawFile,
    name: str,
    compression: Compression,
    pool: ThreadPoolExecutor,
    *,
    advance: Callable[[int], None] | None,
    witness: Callable[[bytes], None] | None = None,
) -> Generator[bytes, None, str]:
    """Yield the gzipped tar in pieces; returns the SHA-1 of the tar stream in hex.

    Holes are neither read nor compressed again. At most a few MiB are under way in `pool`.
    advance: told the image's bytes as they are done. witness: given them, in order, such as
    another digest's update; it runs in a thread of its own.
    """
    sha1 = hashlib.sha1(usedforsecurity=False)
    header, trailer = _tar_ends(name, image.size)
    crc = zlib.crc32(header)
    sha1.update(header)
    yield _GZIP_HEADER + _deflate(header, compression).data
    hole = _deflate(_ZEROS, compression)
    # One thread each reads in order; the pool compresses out of order; the caller encrypts.
    waiting: deque[_Waiting] = deque()
    limit = 2 * len(os.sched_getaffinity(0)) + 2
    with threads(1, "tar-sha1") as hasher, threads(1, "witness") as other:
        for offset, length, is_data in spans(image):
            data = image.read(offset, length) if is_data else _ZEROS[:length]
            readers = [hasher.submit(sha1.update, data)]
            if witness is not None:
                readers.append(other.submit(witness, data))
            if data == _ZEROS:
                waiting.append((readers, hole, length))
            else:
                waiting.append((readers, pool.submit(_deflate, data, compression), length))
            while len(waiting) >= limit:
                crc, piece = _next(waiting, crc, advance)
                yield piece
        while waiting:
            crc, piece = _next(waiting, crc, advance)
            yield piece
    sha1.update(trailer)
    crc = zlib.crc32(trailer, crc)
    length = len(header) + image.size + len(trailer)
    yield (
        _deflate(trailer, compression, last=True).data
        + crc.to_bytes(4, "little")
        + (length & 0xFFFFFFFF).to_bytes(4, "little")
    )
    return sha1.hexdigest()


def spans(image: RawFile) -> Iterator[tuple[int, int, bool]]:
    """(offset, length, whether to read it) of the whole image in pieces, in order."""
    at, size = 0, image.size
    for run in image.runs(0, size):
        begin = run.offset // PIECE * PIECE
        while at < begin:
            yield at, PIECE, False
            at += PIECE
        while at < run.offset + run.length:
            length = min(PIECE, size - at)
            yield at, length, True
            at += length
    while at < size:
        length = min(PIECE, size - at)
        yield at, length, False
        at += length


_Waiting = tuple[list[Future[None]], Future[_Deflated] | _Deflated, int]
"""A piece under way: who still reads it, its compressed form, its bytes."""


def _next(
    waiting: deque[_Waiting], crc: int, advance: Callable[[int], None] | None
) -> tuple[int, bytes]:
    readers, deflated, length = waiting.popleft()
    for reader in readers:
        reader.result()
    piece = deflated if isinstance(deflated, _Deflated) else deflated.result()
    if advance is not None:
        advance(length)
    return isal_zlib.crc32_combine(crc, piece.crc, length), piece.data


def _deflate(data: bytes, compression: Compression, last: bool = False) -> _Deflated:
    flush = zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
    if compression == "fast":
        fast = isal_zlib.compressobj(2, isal_zlib.DEFLATED, _RAW_DEFLATE)
        return _Deflated(fast.compress(data) + fast.flush(flush), isal_zlib.crc32(data))
    small = zlib.compressobj(6, zlib.DEFLATED, _RAW_DEFLATE)
    return _Deflated(small.compress(data) + small.flush(flush), zlib.crc32(data))


def _tar_ends(name: str, size: int) -> tuple[bytes, bytes]:
    """What comes before and after the content of a tar with one member.

    GNU tar's format: its base-256 size field has no limit of 8 GiB. After the content come zeros
    up to a block, two blocks of zeros, and zeros up to a record (tar(5)).
    """
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    header = member.tobuf(tarfile.GNU_FORMAT)
    end = len(header) + size
    whole = -(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE
    whole = -(-whole // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return header, bytes(whole - end)
