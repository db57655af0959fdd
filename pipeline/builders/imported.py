"""The builder for a disk that somebody gives (--disk): it is only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.builders.protocol import Builder, Built
from pipeline.convert.extract import open_format
from pipeline.core.image import Acceleration, DiskImage, Measure
from pipeline.core.request import BuildRequest
from pipeline.core.steps import Action
from pipeline.core.text import human_bytes
from pipeline.host.context import Tools


def open_builder(request: BuildRequest, _tools: Tools) -> Builder:
    """See registry.py."""
    assert request.disk is not None
    return _Imported(request.disk)


class _Imported:
    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """See Builder."""
        open_format(self._path)

    def given(self) -> DiskImage | None:
        """See Builder."""
        return open_format(self._path)

    def identity(self) -> Mapping[str, object]:
        """See Builder: the file itself. Not its path: one that is moved stays what it is."""
        status = self._path.stat()
        return {"file": [self._path.name, status.st_dev, status.st_size, status.st_mtime_ns]}

    def build(self, out: Path, *, acceleration: Measure, evidence: Path, tools: Tools) -> Built:
        """See Builder: the disk is there already, and `out` is not written."""
        return Built(open_format(self._path), {})

    def describe(self, acceleration: Acceleration) -> Sequence[Action]:
        """See Builder."""
        disk = open_format(self._path)
        size = human_bytes(disk.path.stat().st_blocks * 512)
        return [Action(f"read the {disk.format} disk {disk.path}, {size} allocated")]
