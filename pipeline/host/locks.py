"""Lock files: who works on what, on this host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import BusyError, HostError
from pipeline.host.retry import Pauses, poll

# What file systems without locks answer, such as NFS whose lock daemon does not run.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


@contextlib.contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; BusyError that names the holder when somebody else does.

    wait: seconds to give the holder first. HostError where the file system knows no locks.
    flock(2) locks die with their process, so a stale file never blocks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not poll(lambda: _locked(path, descriptor), seconds=wait, pauses=Pauses(0.05)):
            raise _busy(descriptor, what)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def shared(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` together with others; BusyError while one holds it `exclusive`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not poll(
            lambda: _locked(path, descriptor, fcntl.LOCK_SH), seconds=wait, pauses=Pauses(0.05)
        ):
            raise _busy(descriptor, what)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock file `path` now; it is not made or changed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        # Shared: NFS gives an exclusive lock to those alone who may write.
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False  # nobody can hold one there
        raise
    finally:
        os.close(descriptor)


def _busy(descriptor: int, what: str) -> BusyError:
    holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
    return BusyError(
        f"work on {what}",
        why=f"process {holder} is working on it",
        next_step="Wait for it to end, or end it, and try again",
    )


def _locked(path: Path, descriptor: int, how: int = fcntl.LOCK_EX) -> bool:
    try:
        return _try_lock(descriptor, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise HostError(
            "lock",
            path,
            why=f"its file system has no locks: {error.strerror}",
            next_step="Use a directory on a local file system (IMAGE_PIPELINE_BUILD,"
            " IMAGE_PIPELINE_CATALOGUE, IMAGE_PIPELINE_CACHE), or mount NFS with"
            " local_lock=flock",
        ) from error


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
