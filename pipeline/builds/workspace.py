"""A build's directory: its lock, its scratch space, and which finished steps can be reused.

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
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from pipeline.host.files import write_whole
from pipeline.host.locks import exclusive

_Result = TypeVar("_Result")
REPORT = "report.html"
"""Name of a build's page in its directory."""
LOCK = ".lock"
"""Name of a build's lock file in its directory."""
Document = Literal["spdx", "cyclonedx", "provenance"]
"""A form of what is told of a build besides its manifest: two bills of materials, provenance."""
_RESERVE = 16
"""Descriptors: shutil.rmtree holds one a level, two while it lists; scratch has few levels."""


def document_names(name: str) -> dict[Document, str]:
    """What the documents of the build `name` are called in its directory."""
    return {
        "spdx": f"{name}.spdx.json",
        "cyclonedx": f"{name}.cdx.json",
        "provenance": "provenance.json",
    }


class Workspace:
    """`build/NAME`. Use `open` for one that may be written."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = directory.name
        self.scratch = directory / ".work"
        self._entries = directory / ".stages"

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
            self._entries.mkdir(exist_ok=True)
            try:
                yield
            finally:
                reserve.close()
                shutil.rmtree(self.scratch, ignore_errors=True)

    def lookup(self, step: str, key: str, kind: type[_Result]) -> _Result | None:
        """What `remember` kept, if the key is the same and its files are untouched since.

        kind: the record's class, a pydantic model or a dataclass.
        """
        try:
            entry = json.loads((self._entries / f"{step}.json").read_text())
            if entry["key"] != key:
                return None
            for name, fingerprint in entry["files"].items():
                if _fingerprint(self.directory / name) != fingerprint:
                    return None
            return TypeAdapter(kind).validate_json(json.dumps(entry["result"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def untouched(self, step: str, name: str) -> bool:
        """Whether the file of that name is the very one that the step's entry speaks of."""
        try:
            entry = json.loads((self._entries / f"{step}.json").read_text())
            return bool(entry["files"][name] == _fingerprint(self.directory / name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def remember(self, step: str, key: str, files: Iterable[Path], result: object) -> None:
        """Keep a finished step's result with the files it left in the build's directory.

        result: a pydantic model or a dataclass.
        """
        named = {str(file.relative_to(self.directory)): file for file in files}
        write_whole(*self.entry(step, key, named, result))

    def entry(
        self, step: str, key: str, files: Mapping[str, Path], result: object
    ) -> tuple[Path, str]:
        """Where `remember` writes, and what. files: by final name, where they are now."""
        entry = {
            "key": key,
            "files": {name: _fingerprint(file) for name, file in files.items()},
            "result": TypeAdapter(type(result)).dump_python(result, mode="json"),
        }
        return self._entries / f"{step}.json", json.dumps(entry, indent=1)

    def invalidate(self, *steps: str) -> None:
        """Make sure that `lookup` finds nothing for these steps."""
        for step in steps:
            (self._entries / f"{step}.json").unlink(missing_ok=True)

    def step_directory(self, step: str) -> Path:
        """An empty directory for a step's files that are whole but not yet a finished build."""
        self.invalidate(step)
        directory = self._entries / step
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        return directory


def _fingerprint(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
