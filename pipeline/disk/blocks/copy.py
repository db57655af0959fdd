"""Copy a volume into a file of its own: holes stay holes, the kernel moves the bytes.

copy_file_range(2) clones where the host's file system can (XFS, btrfs) and copies within the
kernel elsewhere. What was written is sent to the disk at once (sync_file_range(2)), so that it is
on its way while the next step is read. What the reading brought into the page cache is let go at
once (posix_fadvise(2) DONTNEED), so that a disk larger than the memory pushes nobody else's pages
out and the next step gets pages that are warm; what was in the cache before stays there. What was
written is let go too, once it is on the disk, where it would take too much of the memory
(memory.outgrows_cache). Reading ahead is left to the kernel: WILLNEED, which lets the two
directions fight, measured slower.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DiskError, HostError
from pipeline.disk.blocks.source import RawFile, Run, Source, medium_error
from pipeline.disk.blocks.volume import Volume
from pipeline.host.sparse import in_passing, pieces

CHUNK = 32 << 20
"""Bytes a step: fewer calls and larger write-back requests than 8 MiB, and still a few steps a
second for the progress bar."""
_BUFFER = 1 << 20
_ON_ITS_WAY = 8 * CHUNK
"""Bytes that may wait to reach the disk before their pages are let go."""
_FICLONERANGE = 0x4020940D  # ioctl_ficlonerange(2); _IOW(0x94, 13, 32 bytes)
_SYNC_FILE_RANGE_WRITE, _SYNC_FILE_RANGE_WHOLE = 2, 1 | 2 | 4  # linux/fs.h; wait, write, wait
_NO_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
)


_WRITE_FAULTS = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True)
class Copied:
    """What a copy did. copied: bytes; method: how most of them went."""

    copied: int
    method: str


def data_of(source: Source, ranges: Iterable[tuple[int, int]]) -> Iterator[Run]:
    """What of the (offset, length) ranges is data, neighbours joined."""
    pending: Run | None = None
    for offset, length in ranges:
        for run in source.runs(offset, length):
            if pending is None:
                pending = run
            elif _follows(pending, run):
                pending = Run(pending.offset, pending.length + run.length, pending.at)
            else:
                yield pending
                pending = run
    if pending:
        yield pending


def _follows(first: Run, second: Run) -> bool:
    if first.offset + first.length != second.offset:
        return False
    if first.at is None or second.at is None:
        return first.at is second.at
    return first.at + first.length == second.at


def steps(runs: Iterable[Run]) -> Iterator[Run]:
    """The runs in pieces of at most CHUNK."""
    for run in runs:
        for offset, length in pieces(run.offset, run.length, CHUNK):
            at = None if run.at is None else run.at + offset - run.offset
            yield Run(offset, length, at)


@contextlib.contextmanager
def new_file(target: Path, size: int) -> Iterator[int]:
    """Descriptor of a new file of `size` bytes, all hole; HostError if it exists."""
    try:
        descriptor = os.open(
            target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
    except OSError as error:
        raise _target_error(target, error) from None
    try:
        try:
            os.ftruncate(descriptor, size)
        except OSError as error:
            raise _target_error(target, error) from None
        yield descriptor
    finally:
        os.close(descriptor)


def clone(volume: Volume, target: int) -> bool:
    """Let the file `target` share the blocks of a volume on a raw disk; False where that fails.

    It takes a host file system with reflinks, and stretches that begin on its blocks.
    """
    if not isinstance(volume.source, RawFile):
        return False
    here = 0
    for stretch in volume.stretches:
        request = struct.pack("qQQQ", volume.descriptor(), stretch.start, stretch.length, here)
        try:
            fcntl.ioctl(target, _FICLONERANGE, request)
        except OSError:
            if here:  # the first stretches are cloned: start over with an empty file
                os.ftruncate(target, 0)
                os.ftruncate(target, volume.size)
            return False
        here += stretch.length
    return True


def copy(
    source: Source,
    ranges: Iterable[tuple[int, int]],
    target: int,
    path: Path,
    advance: Callable[[int], None],
    *,
    keep: bool = True,
) -> Copied:
    """Copy what is data in the (offset, length) `ranges`, in rising order, to the same offsets.

    target: an all-hole file open for writing; path: its name, for errors. advance: told the bytes
    of each step. keep: whether what is written stays in the page cache. Raises DiskError when the
    source cannot be read, HostError when the target cannot be written.
    """
    return _Copier(source, path, target, advance, keep=keep).run(data_of(source, ranges))


class _Copier:
    def __init__(
        self,
        source: Source,
        path: Path,
        target: int,
        advance: Callable[[int], None],
        *,
        keep: bool = True,
    ) -> None:
        self._source, self._path, self._target = source, path, target
        self._advance = advance
        self._keep = keep
        self._written: deque[Run] = deque()
        self._waiting = 0  # bytes in them
        self._in_kernel = True
        self._buffer = bytearray(_BUFFER)
        self._moved = 0
        self._by_hand = 0

    def run(self, runs: Iterable[Run]) -> Copied:
        for step in steps(runs):
            self._copy(step)
        method = "copy_file_range" if self._moved > self._by_hand else "read and write"
        return Copied(self._moved + self._by_hand, method)

    def _copy(self, run: Run) -> None:
        if run.at is None:
            # In small pieces: a step's worth of inflated clusters would not fit the memory bound.
            for begin, length in pieces(run.offset, run.length, _BUFFER):
                self._write(self._source.read(begin, length), begin)
            self._by_hand += run.length
        else:
            with in_passing(self._source.descriptor(), run.at, run.length):
                self._copy_from(run.at, run.offset, run.length)
        with contextlib.suppress(OSError):  # a hint, whose failure costs only time
            _sync_range(self._target, run.offset, run.length, _SYNC_FILE_RANGE_WRITE)
        if not self._keep:
            self._let_go(run)
        self._advance(run.length)

    def _copy_from(self, at: int, offset: int, length: int) -> None:
        done = self._copy_in_kernel(at, offset, length) if self._in_kernel else 0
        self._moved += done
        if done < length:
            self._copy_by_hand(at + done, offset + done, length - done)

    def _let_go(self, run: Run) -> None:
        """Take what was written a while ago out of the page cache, once it is on the disk."""
        self._written.append(run)
        self._waiting += run.length
        while self._waiting > _ON_ITS_WAY:
            old = self._written.popleft()
            self._waiting -= old.length
            try:
                _sync_range(self._target, old.offset, old.length, _SYNC_FILE_RANGE_WHOLE)
            except OSError as error:
                # A fault of the disk is told once: fsync(2) would not see it again.
                if error.errno in _WRITE_FAULTS:
                    raise _target_error(self._path, error) from None
                self._keep = True
                return
            os.posix_fadvise(self._target, old.offset, old.length, os.POSIX_FADV_DONTNEED)

    def _copy_in_kernel(self, at: int, offset: int, length: int) -> int:
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(
                    self._source.descriptor(), self._target, length - done, at + done, offset + done
                )
            except OSError as error:
                if error.errno in _NO_COPY:
                    self._in_kernel = False
                    return done
                # The kernel does not say which side failed: reading once more by hand does.
                if error.errno == errno.EIO:
                    return done
                raise _target_error(self._path, error) from None
            if count == 0:
                raise DiskError("read", self._source.name, why="it shrank while it was read")
            done += count
        return done

    def _copy_by_hand(self, at: int, offset: int, length: int) -> None:
        view = memoryview(self._buffer)
        while length > 0:
            try:
                count = os.preadv(self._source.descriptor(), [view[: min(length, _BUFFER)]], at)
            except OSError as error:
                raise medium_error(self._source.name, at, error) from None
            if count == 0:
                raise DiskError("read", self._source.name, why="it shrank while it was read")
            self._write(view[:count], offset)
            self._by_hand += count
            at, offset, length = at + count, offset + count, length - count

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        while view:
            try:
                count = os.pwrite(self._target, view, offset)
            except OSError as error:
                raise _target_error(self._path, error) from None
            view, offset = view[count:], offset + count


_LIBC = ctypes.CDLL(None, use_errno=True)


def _sync_range(descriptor: int, offset: int, length: int, flags: int) -> None:
    """sync_file_range(2)."""
    failed = _LIBC.sync_file_range(
        descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(flags)
    )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _target_error(target: Path, error: OSError) -> HostError:
    next_step = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        next_step = "Free some space, or build on a larger file system"
    return HostError("write", target, why=error.strerror or str(error), next_step=next_step)
