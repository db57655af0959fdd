"""Files that are whole once they have their final name."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def finish(partial: Path, final: Path) -> None:
    """Give a whole file its final name: sync, rename, sync the directory."""
    with naming(final), partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(final)
    _sync_directory(final.parent)


def write_whole(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write a small file so that it is never seen in part. An OSError names the file."""
    with Replacements() as new:
        new.add(path, content, mode)
        new.commit()


def make_open_directory(path: Path) -> None:
    """Make a directory that all may enter, whatever the umask: another user than us works in it."""
    path.mkdir()
    path.chmod(0o755)


def write_scratch(path: Path, content: str | bytes) -> None:
    """Write a file that nobody else looks for. An OSError names it, as write(2) itself does not."""
    with naming(path):
        path.write_bytes(content.encode() if isinstance(content, str) else content)


class Replacements:
    """Small files that are whole on the disk and get their names one after the other.

    What could fail for want of space fails in `add`, before `commit` replaces anything. Leaving
    the context deletes what was not committed.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Path, Path]] = []

    def add(self, path: Path, content: str | bytes, mode: int = 0o644) -> None:
        """Write the content of `path` under another name. An OSError names the file."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._waiting.append((partial, path))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with naming(path), os.fdopen(os.open(partial, flags, mode), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Give all files their names, in the order they were added."""
        while self._waiting:
            partial, path = self._waiting[0]
            partial.replace(path)
            _sync_directory(path.parent)
            del self._waiting[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for partial, _ in self._waiting:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def put_back_on_error(directory: Path, names: Iterable[str], aside: Path) -> Iterator[None]:
    """Have the files of these names be what they were if the context ends with an exception.

    Until then they are held by second names in `aside`, a new directory of the same file system;
    where that knows no hard links, nothing is held. What is last in `names` is back last.
    """
    held: list[str] = []
    aside.mkdir()
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                (aside / name).hardlink_to(directory / name)
                held.append(name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        held.clear()
    try:
        yield
    except BaseException:
        # Not by renaming: what failed may well be just that.
        for name in held:
            (directory / name).unlink(missing_ok=True)
            (directory / name).hardlink_to(aside / name)
        raise


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of a call that knows descriptors only is raised again with the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
