"""A build's directory: its lock, its scratch space, and which finished stages can be reused.

Work in progress lies below `.work/` and is deleted by the next run that holds the lock. A file
under its final name is whole: it was synced, then renamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive

LOCK = ".lock"
"""Name of a build's lock file in its directory."""
_RESERVE = 16
"""Descriptors: shutil.rmtree holds one a level, two while it lists; scratch has few levels."""


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
