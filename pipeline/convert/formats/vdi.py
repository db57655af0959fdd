"""VDI, by QEMU."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.by_qemu import write_by_qemu
from pipeline.convert.formats.protocol import OutputFormat, Work
from pipeline.disk.blocks.source import Source


def _write(source: Source, target: Path, work: Work) -> None:
    write_by_qemu(source, target, "vdi", "static=off", work)


FORMAT = OutputFormat("vdi", "VirtualBox", ".vdi", "vdi", _write, most=1 << 49)
