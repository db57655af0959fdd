"""VHD, by QEMU.

Azure and Hyper-V take whole MiB alone, so the size is rounded up to these; without force_size QEMU
would round it to whole cylinders of an invented geometry.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.by_qemu import write_by_qemu
from pipeline.convert.formats.protocol import GIB, MIB, OutputFormat, Work
from pipeline.disk.blocks.source import Source

_VARIANTS = {
    "dynamic": "grows with its content; XenServer, Hyper-V",
    "fixed": "the raw disk and a footer; what Azure takes",
}


def _write(source: Source, target: Path, work: Work) -> None:
    kind = "fixed" if work.options.variant == "fixed" else "dynamic"
    write_by_qemu(source, target, "vpc", f"subformat={kind},force_size=on", work)


FORMAT = OutputFormat(
    "vhd",
    "Azure, Hyper-V of the first generation, XenServer",
    ".vhd",
    "vhd",
    _write,
    multiple=MIB,
    most=2040 * GIB,
    variants=_VARIANTS,
)
