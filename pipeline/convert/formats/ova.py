"""OVA: a machine with one disk in one file."""

from __future__ import annotations

from pathlib import Path

from pipeline.convert.formats.protocol import OutputFormat, Work
from pipeline.convert.writers.ova import Machine, write_ova
from pipeline.convert.writers.vmdk import write_stream_vmdk
from pipeline.disk.blocks.source import Source


def _write(source: Source, target: Path, work: Work) -> None:
    disk = target.with_name(f"{target.name}.vmdk")
    try:
        write_stream_vmdk(source, disk, work.meter)
        machine = Machine(
            work.options.name, work.options.cpus, work.options.memory_mib, source.size
        )
        write_ova(machine, disk, target)
    finally:
        disk.unlink(missing_ok=True)


FORMAT = OutputFormat(
    "ova", "a machine and its disk; vSphere, VirtualBox", ".ova", "tar", _write, most=1 << 41
)
