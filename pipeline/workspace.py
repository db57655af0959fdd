"""A build's directory: its lock, its scratch space, and which finished stages can be reused.

Work in progress lies below `.work/` and is deleted by the next run that holds the lock. A file
under its final name is whole: it was synced, then renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.errors import BusyError

LOCK = ".lock"
"""Name of a build's lock file in its directory."""
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_RESERVE = 16
"""Descriptors: shutil.rmtree holds one a level, two while it lists; scratch has few levels."""


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


@contextlib.contextmanager
def exclusive(path: Path, what: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path`; BusyError that names the holder when somebody else does.

    wait: seconds to give the holder first.
    flock(2) locks die with their process, so a stale file never blocks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + wait
        while not (held := _try_lock(descriptor)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not held:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
            raise BusyError(
                f"work on {what}",
                why=f"process {holder} is working on it",
                next_step="Wait for it to end, or end it, and try again",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
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
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stage_key(stage: str, inputs: Mapping[str, Any], code: Iterable[Path] = ()) -> str:
    """Identity of a stage's work: a sha256 over its name, inputs and the code that does it.

    inputs: anything JSON can say. code: source files and templates, or directories of them.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps([stage, inputs], sort_keys=True, default=str).encode())
    for entry in code:
        files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
        for file in files:
            # Python's own: what it compiles comes and goes under other names beside us.
            if "__pycache__" not in file.parts and file.is_file():
                digest.update(
                    file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest()
                )
    return digest.hexdigest()


class Workspace:
    """`build/NAME`. Use `open` for one that may be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name
        self.scratch = directory / ".work"
        self._stamps = directory / ".stages"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hold the build's lock with an empty scratch directory; both gone at the end."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self.directory / LOCK, f"the build {self.name}"), ExitStack() as reserve:
            shutil.rmtree(self.scratch, ignore_errors=True)
            # A directory cannot even be listed without a descriptor: a build that has used up
            # its own still cleans up with these.
            for _ in range(_RESERVE):
                reserve.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            self.scratch.mkdir(mode=0o755)
            self._stamps.mkdir(exist_ok=True)
            try:
                yield
            finally:
                reserve.close()
                shutil.rmtree(self.scratch, ignore_errors=True)

    def reuse(self, stage: str, key: str) -> dict[str, Any] | None:
        """What `stamp` recorded, if the key is the same and its files are untouched since."""
        try:
            record = json.loads((self._stamps / f"{stage}.json").read_text())
            if record["key"] != key:
                return None
            for name, fingerprint in record["files"].items():
                if _fingerprint(self.directory / name) != fingerprint:
                    return None
            result: dict[str, Any] = record["result"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return result

    def stamp(self, stage: str, key: str, files: Iterable[Path], result: dict[str, Any]) -> None:
        """Record a finished stage with the files it left in the build's directory."""
        named = {str(file.relative_to(self.directory)): file for file in files}
        write_whole(*self.record(stage, key, named, result))

    def record(
        self, stage: str, key: str, files: Mapping[str, Path], result: dict[str, Any]
    ) -> tuple[Path, str]:
        """Where `stamp` writes, and what. files: by name in the directory, where they are now."""
        record = {
            "key": key,
            "files": {name: _fingerprint(file) for name, file in files.items()},
            "result": result,
        }
        return self._stamps / f"{stage}.json", json.dumps(record, indent=1)

    def forget(self, *stages: str) -> None:
        """Make sure that `reuse` finds nothing for these stages."""
        for stage in stages:
            (self._stamps / f"{stage}.json").unlink(missing_ok=True)

    def stage_directory(self, stage: str) -> Path:
        """An empty directory for a stage's files that are whole but not yet a finished build."""
        self.forget(stage)
        directory = self._stamps / stage
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
