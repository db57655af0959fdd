"""VMDK: stream-optimised by our own writer, sparse by QEMU's."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.by_qemu import write_by_qemu
from pipeline.convert.formats.protocol import OutputFormat, Work
from pipeline.convert.writers.vmdk import write_stream_vmdk
from pipeline.disk.blocks.source import Source

_VARIANTS = {
    "stream": "streamOptimized: compressed, for import services and OVA",
    "sparse": "monolithicSparse: what Workstation, Fusion and VirtualBox run from",
}


def _write(source: Source, target: Path, work: Work) -> None:
    if work.options.variant == "sparse":
        write_by_qemu(source, target, "vmdk", "subformat=monolithicSparse", work)
    else:
        write_stream_vmdk(source, target, work.meter)


FORMAT = OutputFormat(
    "vmdk",
    "VMware; import services of EC2 and vSphere",
    ".vmdk",
    "vmdk",
    _write,
    most=1 << 41,
    variants=_VARIANTS,
)
