"""What this host remembers of snapshots: the blocks they hold, the token they were begun with."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import settings
from pipeline.host.files import finish, write_scratch, write_whole

_RECORD = struct.Struct(">I32s")  # a block's index and SHA-256


@dataclass(frozen=True)
class Parent:
    """A completed snapshot to build on. digests: SHA-256 of its blocks that are not all zeros."""

    snapshot_id: str
    volume_gib: int
    digests: Mapping[int, bytes]


class BlockIndex:
    """What blocks a snapshot holds, kept below the cache directory.

    While a snapshot is written it is a journal that lets the next run go on; of a completed one
    it tells what the next generation has in common with it. Without it nothing but time is lost.
    """

    def __init__(self, cloud: str, snapshot_id: str) -> None:
        name = hashlib.sha256(f"{cloud} {snapshot_id}".encode()).hexdigest()[:32]
        directory = settings.cache_dir() / "ebs"
        self._journal = directory / f"{name}.journal"
        self._blocks = directory / f"{name}.blocks"
        self._descriptor: int | None = None

    def written(self) -> dict[int, bytes]:
        """Blocks that were acknowledged; a record cut off by a crash is left out."""
        return _records(self._journal)

    def write(self, index: int, digest: bytes) -> None:
        """Record an acknowledged block."""
        if self._descriptor is None:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(self._journal, flags, 0o600)
            torn = os.fstat(self._descriptor).st_size % _RECORD.size
            if torn:
                os.truncate(self._descriptor, os.fstat(self._descriptor).st_size - torn)
        os.write(self._descriptor, _RECORD.pack(index, digest))

    def close(self) -> None:
        """Close the journal."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def complete(self, digests: Mapping[int, bytes]) -> None:
        """Keep the content of the finished snapshot in place of the journal."""
        partial = self._blocks.with_suffix(f".{os.getpid()}.partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        write_scratch(partial, b"".join(_RECORD.pack(i, d) for i, d in sorted(digests.items())))
        finish(partial, self._blocks)
        self._journal.unlink(missing_ok=True)

    def content(self) -> dict[int, bytes] | None:
        """Blocks of the finished snapshot, or None when this host does not know."""
        return _records(self._blocks) if self._blocks.is_file() else None

    def forget(self) -> None:
        """Delete both."""
        self.close()
        self._journal.unlink(missing_ok=True)
        self._blocks.unlink(missing_ok=True)


class KeptToken:
    """The client token of an unfinished snapshot, kept so that the next run finds it again.

    It is forgotten once the snapshot is complete: a cloud goes on answering a token with its
    snapshot after that was deleted.
    """

    def __init__(self, cloud: str, identity: str, gib: int, parent: Parent | None) -> None:
        text = f"{cloud} {identity} {gib} {parent.snapshot_id if parent else ''}"
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = settings.cache_dir() / "ebs" / f"{name}.token"

    def value(self) -> str:
        """The token, made now unless there is one."""
        with contextlib.suppress(FileNotFoundError):
            if text := self._path.read_text():
                return text
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = secrets.token_hex(16)
        write_whole(self._path, text, 0o600)
        return text

    def forget(self) -> None:
        """Have the next `value` be another."""
        self._path.unlink(missing_ok=True)


def _records(path: Path) -> dict[int, bytes]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    whole = len(data) // _RECORD.size * _RECORD.size
    return dict(_RECORD.iter_unpack(data[:whole]))
