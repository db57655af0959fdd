"""An archive of the raw disk under the name that Compute Engine takes, disk.raw."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.protocol import GIB, OutputFormat, Work
from pipeline.convert.writers.disk_tar import write_disk_tar
from pipeline.disk.blocks.source import Source


def _write(source: Source, target: Path, work: Work) -> None:
    write_disk_tar(source, target, work.meter)


FORMAT = OutputFormat(
    "tar",
    "disk.raw in an oldgnu archive, whole GiB; with --pack gzip what Compute Engine imports",
    ".tar",
    "tar",
    _write,
    multiple=GIB,
)
