"""The content of files: copied into an image, hashed, or both, by two threads.

Memory: one buffer a thread.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from pipeline.convert.ext4.tree import Entry
from pipeline.core.errors import HostError
from pipeline.host.copy import NO_COPY, write_all

THREADS = 2
BUFFER = 1 << 20
_BATCH = 64  # files that a thread takes at once
_T = TypeVar("_T")


class Move(NamedTuple):
    """A file to copy. pieces: (offset in the file, offset in the image, bytes), in order."""

    entry: Entry
    pieces: Sequence[tuple[int, int, int]]


def copy_files(moves: Sequence[Move], target: int) -> None:
    """Copy the files' data into the open image; HostError for a file that changed meanwhile."""
    copier = _Copier(target)

    def copy(move: Move, buffer: memoryview) -> None:
        descriptor = opened(move.entry)
        try:
            for piece in move.pieces:
                if not copier.copy(descriptor, piece, buffer):
                    raise changed(move.entry)
        finally:
            os.close(descriptor)

    _in_threads(moves, copy)


class _Copier:
    """Copies by the kernel, which need not hand the bytes to us and back, until it cannot."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._kernel_can = True

    def copy(self, source: int, piece: tuple[int, int, int], buffer: memoryview) -> bool:
        """Copy a piece; False where the file ends before it."""
        at, to, length = piece
        while length:
            count = self._some(source, at, to, length, buffer)
            if not count:
                return False
            at, to, length = at + count, to + count, length - count
        return True

    def _some(self, source: int, at: int, to: int, length: int, buffer: memoryview) -> int:
        if self._kernel_can:
            try:
                return os.copy_file_range(source, self._target, length, at, to)
            except OSError as error:
                if error.errno not in NO_COPY:
                    raise
                self._kernel_can = False
        count = os.preadv(source, [buffer[: min(length, BUFFER)]], at)
        write_all(self._target, buffer[:count], to)
        return count


def digest_files(entries: Sequence[Entry]) -> dict[bytes, bytes]:
    """The sha256 of each of the files, by path, holes as the zeros that they are."""
    found: dict[bytes, bytes] = {}

    def digest(entry: Entry, buffer: memoryview) -> None:
        descriptor = opened(entry)
        try:
            hashed = hashlib.sha256()
            total = 0
            while count := os.readv(descriptor, [buffer]):
                hashed.update(buffer[:count])
                total += count
            if total != entry.size:
                raise changed(entry)
            found[entry.path] = hashed.digest()
        finally:
            os.close(descriptor)

    _in_threads(entries, digest)
    return found


def digest_tree(entries: Sequence[Entry]) -> str:
    """One sha256, lower-case hex, over all that the entries say and the content of their files.

    Where the files lie on the host, in which layers and with which holes does not count.
    """
    contents = digest_files([entry for entry in entries if entry.host and not entry.same_as])
    whole = hashlib.sha256()
    for entry in entries:
        fields: list[bytes] = [
            entry.path,
            entry.kind.encode(),
            b"%o %d %d %d %d" % (entry.mode, entry.uid, entry.gid, entry.mtime, entry.size),
            b"%d %d" % entry.rdev,
            entry.target,
            entry.same_as,
            contents.get(entry.path, b""),
        ]
        for name, value in entry.xattrs:
            fields += [os.fsencode(name), value]
        whole.update(b"%d\n" % len(fields))
        for each in fields:
            whole.update(b"%d:%b" % (len(each), each))
    return whole.hexdigest()


def opened(entry: Entry) -> int:
    """A descriptor of an entry's file; HostError where it cannot be opened."""
    try:
        return os.open(entry.host, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            "read the file", os.fsdecode(entry.host), why=f"{error.strerror}"
        ) from error


def changed(entry: Entry) -> HostError:
    """The error for a file that is not what it was when the tree was read."""
    return HostError(
        "read the file",
        os.fsdecode(entry.host),
        why="it changed while the tree was read",
        next_step="Let nothing write to the tree, and do it again",
    )


def _in_threads(items: Sequence[_T], work: Callable[[_T, memoryview], None]) -> None:
    """Do the work for all items in THREADS threads; the first error ends it and is raised."""
    waiting = iter(items)
    lock = threading.Lock()
    errors: list[BaseException] = []

    def batches() -> Iterator[list[_T]]:
        while not errors:
            with lock:
                batch = list(islice(waiting, _BATCH))
            if not batch:
                return
            yield batch

    def run() -> None:
        buffer = memoryview(bytearray(BUFFER))
        try:
            for batch in batches():
                for item in batch:
                    work(item, buffer)
        except BaseException as error:
            errors.append(error)

    others = [threading.Thread(target=run) for _ in range(THREADS - 1)]
    for thread in others:
        thread.start()
    run()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
