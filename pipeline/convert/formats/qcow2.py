"""qcow2, compressed by all processors."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.protocol import OutputFormat, Work
from pipeline.convert.writers.qcow2 import write_qcow2
from pipeline.disk.blocks.source import Source

_COMPRESSIONS = {
    "zstd": "smaller, many times faster; read by QEMU 5.1 (2020) and later",
    "zlib": "read by every QEMU and by all that read qcow2",
}


def _write(source: Source, target: Path, work: Work) -> None:
    write_qcow2(
        source, target, "zlib" if work.options.compression == "zlib" else "zstd", work.meter
    )


FORMAT = OutputFormat(
    "qcow2",
    "compressed; OpenStack, libvirt, Proxmox",
    ".qcow2",
    "qcow2",
    _write,
    most=1 << 50,
    compressions=_COMPRESSIONS,
)
