"""Random access to bytes that may be sparse, and where they lie in a file of the host.

Three things are sources: a raw disk (RawFile), the guest's view of a qcow2 disk (qcow2.py) and a
volume made of stretches of another source (volume.py). All offsets and lengths are in bytes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pipeline.core.errors import DiskError, InputError
from pipeline.host.sparse import data_runs

_READ = 1 << 24  # bytes a pread; Linux gives at most 2 GiB at once


@dataclass(frozen=True, slots=True)
class Run:
    """`length` bytes of data at `offset` of a source.

    at: where the same bytes lie in the host's file, or None when they must be read through the
    source (compressed clusters).
    """

    offset: int
    length: int
    at: int | None


class Source(Protocol):
    """Read-only bytes of a fixed size, with holes."""

    @property
    def name(self) -> str:
        """What errors call it."""

    @property
    def size(self) -> int:
        """Bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; DiskError beyond the end or when the medium fails."""

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """The stretches of [offset, offset + length) that may hold other bytes than zero.

        In rising order, disjoint, clipped to the range. What no run covers reads as zeros.
        """

    def descriptor(self) -> int:
        """File descriptor that `Run.at` counts in."""


def check_range(source: Source, offset: int, length: int) -> None:
    """DiskError unless [offset, offset + length) lies in the source."""
    if offset < 0 or length < 0 or offset + length > source.size:
        raise DiskError(
            "read",
            source.name,
            why=f"bytes {offset} to {offset + length} were asked of {source.size}: it is cut off "
            "or its tables are damaged",
            next_step="Check that the disk image was copied whole",
        )


_DISK = "Give a raw or qcow2 file, or a block device, that you may read"


class RawFile:
    """A file or block device of the host, opened read-only. A context manager."""

    def __init__(self, path: Path) -> None:
        try:
            # O_NONBLOCK: a FIFO must not block the open that finds out that it is one.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise InputError(
                "open the disk", path, why=error.strerror or str(error), next_step=_DISK
            ) from None
        self.name = str(path)
        mode = os.fstat(self._descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            self.close()
            raise InputError(
                "open the disk",
                path,
                why="it is no file and no block device",
                next_step=_DISK,
            )
        self.size = os.lseek(self._descriptor, 0, os.SEEK_END)

    def descriptor(self) -> int:
        """The file itself."""
        return self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        """See Source."""
        check_range(self, offset, length)
        parts: list[bytes] = []
        while length > 0:
            try:
                part = os.pread(self._descriptor, min(length, _READ), offset)
            except OSError as error:
                raise medium_error(self.name, offset, error) from None
            if not part:
                raise DiskError("read", self.name, why="it shrank while it was read")
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def runs(self, offset: int, length: int) -> Iterator[Run]:
        """See Source; by SEEK_DATA and SEEK_HOLE (lseek(2)), all data where those fail."""
        check_range(self, offset, length)
        try:
            for begin, count in data_runs(self._descriptor, offset, offset + length):
                yield Run(begin, count, begin)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise medium_error(self.name, offset, error) from None
            yield Run(offset, length, offset)  # a block device: nothing was given so far

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def medium_error(name: str, offset: int, error: OSError) -> DiskError:
    """The error for a medium that cannot be read at `offset`."""
    return DiskError(
        "read",
        name,
        why=f"{error.strerror or error} at byte {offset}",
        next_step="Check the storage the disk image lies on, or copy the image again",
    )
