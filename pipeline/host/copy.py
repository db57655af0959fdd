"""Copying stretches of files: by the kernel while it can, else by hand, and never a hole.

copy_file_range(2) clones where the host's file system can (XFS, btrfs) and copies within the
kernel elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.host.sparse import data_runs, pieces

BUFFER = 1 << 20
"""Bytes of a read by hand."""
_STEP = 64 << 20  # bytes a system call: progress is shown, an interrupt is heard
# Between file systems, or one without support; a source that is being run as a program.
NO_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}
)


class SourceError(OSError):
    """The source cannot be read at the offset `at`."""

    def __init__(self, error: OSError, at: int) -> None:
        super().__init__(error.errno, error.strerror)
        self.at = at


class EndedError(OSError):
    """The source ended before its bytes were copied: somebody cut it off."""

    def __init__(self) -> None:
        super().__init__(errno.EIO, "it shrank while it was read")


class Copier:
    """Copies between two open files; what one call learns of the kernel serves the next.

    in_kernel, by_hand: bytes copied either way so far.
    """

    def __init__(self, source: int, target: int) -> None:
        self.in_kernel = self.by_hand = 0
        self._source, self._target = source, target
        self._kernel_can = True
        self._buffer: bytearray | None = None

    def copy(self, at: int, to: int, length: int) -> None:
        """Copy `length` bytes from the source's offset `at` to the target's `to`.

        SourceError or EndedError when the source is at fault; any other OSError is the target's.
        """
        done = self._by_kernel(at, to, length) if self._kernel_can else 0
        self.in_kernel += done
        self._by_hand(at + done, to + done, length - done)
        self.by_hand += length - done

    def _by_kernel(self, at: int, to: int, length: int) -> int:
        """How many bytes were copied; fewer than `length` where the rest is to be by hand."""
        done = 0
        while done < length:
            try:
                count = os.copy_file_range(
                    self._source, self._target, length - done, at + done, to + done
                )
            except OSError as error:
                if error.errno in NO_COPY:
                    self._kernel_can = False
                    return done
                # The kernel does not say which side failed: reading once more by hand does.
                if error.errno == errno.EIO:
                    return done
                raise
            if count == 0:
                raise EndedError
            done += count
        return done

    def _by_hand(self, at: int, to: int, length: int) -> None:
        if length and self._buffer is None:
            self._buffer = bytearray(BUFFER)
        view = memoryview(self._buffer or b"")
        while length > 0:
            try:
                count = os.preadv(self._source, [view[: min(length, BUFFER)]], at)
            except OSError as error:
                raise SourceError(error, at) from None
            if count == 0:
                raise EndedError
            write_all(self._target, view[:count], to)
            at, to, length = at + count, to + count, length - count


def write_all(target: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite(2) until all is written."""
    view = memoryview(data)
    while view:
        count = os.pwrite(target, view, offset)
        view, offset = view[count:], offset + count


def copy_sparse(
    source: Path, target: int, to: int = 0, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Copy what is data in the file `source` to `to` bytes into the all-hole file `target`.

    advance: told the bytes of each step. OSError as of `Copier.copy`.
    """
    with source.open("rb", buffering=0) as file:
        copier = Copier(file.fileno(), target)
        for run in data_runs(file.fileno(), 0, os.fstat(file.fileno()).st_size):
            for start, length in pieces(*run, _STEP):
                copier.copy(start, to + start, length)
                advance(length)
