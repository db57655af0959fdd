"""VHDX, by QEMU."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.by_qemu import write_by_qemu
from pipeline.convert.formats.protocol import MIB, OutputFormat, Work
from pipeline.disk.blocks.source import Source


def _write(source: Source, target: Path, work: Work) -> None:
    write_by_qemu(source, target, "vhdx", "subformat=dynamic", work)


FORMAT = OutputFormat(
    "vhdx", "Hyper-V 2012 and later", ".vhdx", "vhdx", _write, multiple=MIB, most=1 << 46
)
