"""Reading files with holes: a hole costs neither a disk read nor memory.

Holes are found with lseek(2) SEEK_DATA and SEEK_HOLE; a file system without support reports the
whole file as data, which is slower and as right.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pipeline.core.events import Meter
from pipeline.core.image import Artifact, Role
from pipeline.host.memory import outgrows_cache

CHUNK = 1 << 20
"""Bytes a read: large enough to hide the call, small enough for the cache of one core."""
STRETCH = 32 << 20
"""Bytes whose pages are let go together: more than the kernel reads ahead."""
_ZEROS = memoryview(bytes(CHUNK))
_LIBC = ctypes.CDLL(None, use_errno=True)
_PUNCH_HOLE = 0x2 | 0x1  # FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE, linux/falloc.h


def data_runs(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each run of data in [start, end), in order, clipped to it."""
    position = start
    while position < end:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        if data >= end:
            return
        hole = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, hole - data
        position = hole


def punch(descriptor: int, offset: int, length: int) -> None:
    """Make bytes of a file a hole; zeros where its file system has no holes (fallocate(2))."""
    arguments = (ctypes.c_int(_PUNCH_HOLE), ctypes.c_int64(offset), ctypes.c_int64(length))
    if _LIBC.fallocate(descriptor, *arguments) == 0:
        return
    for at, size in pieces(offset, length, CHUNK):
        done = 0
        while done < size:
            done += os.pwrite(descriptor, _ZEROS[: size - done], at + done)


def is_cached(descriptor: int, at: int) -> bool:
    """Whether a byte of the file lies in the page cache (preadv2(2), RWF_NOWAIT).

    True where nobody can tell.
    """
    try:
        os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


@contextmanager
def in_passing(descriptor: int, offset: int, length: int) -> Iterator[None]:
    """Let go what reading these bytes brings into the page cache; what was there before stays."""
    # The last byte: the kernel reads ahead past the end of what was read before.
    fetched = not is_cached(descriptor, offset + length - 1)
    yield
    if fetched:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def pieces(offset: int, length: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the pieces of a run, each of at most `size` bytes."""
    end = offset + length
    for start in range(offset, end, size):
        yield start, min(size, end - start)


def chunks(descriptor: int, size: int) -> Iterator[memoryview]:
    """The file's first `size` bytes in pieces of at most CHUNK; each is valid until the next.

    A file that outgrows the page cache leaves nothing there that was not there before. Raises
    EOFError when the file ends early: somebody truncated it.
    """
    buffer = memoryview(bytearray(CHUNK))
    position = 0
    passing = outgrows_cache(os.fstat(descriptor).st_blocks * 512)
    runs = data_runs(descriptor, 0, size)
    for offset, length in (piece for run in runs for piece in pieces(*run, STRETCH)):
        yield from _zeros(offset - position)
        position, stop = offset, offset + length
        with in_passing(descriptor, offset, length) if passing else nullcontext():
            while position < stop:
                view = buffer[: min(CHUNK, stop - position)]
                count = os.preadv(descriptor, [view], position)
                if count == 0:
                    raise EOFError(f"the file ends at byte {position} of {size}")
                yield view[:count]
                position += count
    if position < size and os.fstat(descriptor).st_size < size:
        raise EOFError(f"the file ends before byte {size}")
    yield from _zeros(size - position)


def _zeros(count: int) -> Iterator[memoryview]:
    while count > 0:
        yield _ZEROS[: min(CHUNK, count)]
        count -= CHUNK


def digests(path: Path, algorithms: Sequence[str], meter: Meter | None = None) -> dict[str, str]:
    """Hex digests of the whole file, all in one pass. algorithms: hashlib's names."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb", buffering=0) as file:
        for piece in chunks(file.fileno(), os.fstat(file.fileno()).st_size):
            for each in hashes.values():
                each.update(piece)
            if meter:
                meter.advance(len(piece))
    return {name: each.hexdigest() for name, each in hashes.items()}


def image_file(role: Role, path: Path, meter: Meter | None = None) -> Artifact:
    """The record of one of the three files; reads it once."""
    sha256 = digests(path, ["sha256"], meter)["sha256"]
    status = path.stat()
    return Artifact(role, path, sha256, status.st_size, status.st_blocks * 512)
