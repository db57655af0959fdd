"""From one format of a disk image to another, by qemu-img."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.core.image import Format
from pipeline.host.context import Tools
from pipeline.host.files import finish

_OPTIONS: dict[Format, tuple[str, ...]] = {
    "qcow2": ("-O", "qcow2"),
    # Stream-optimised is what the import services of EC2 and vSphere take.
    "vmdk": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    # Without force_size qemu rounds the size to a whole number of cylinders.
    "vhd": ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
}
_SECONDS = 4 * 3600  # a bound for a hung disk, not an estimate


def convert(raw: Path, target: Path, form: Format, tools: Tools) -> None:
    """Write the raw disk image as `target` in another format: qcow2, vmdk or vhd.

    KeyError for a format that is not among them; ProgramError when qemu-img fails.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with tools.run.cleanup(remove=partial):
        try:
            tools.run.run(
                ["qemu-img", "convert", "-f", "raw", *_OPTIONS[form], raw, partial],
                timeout=_SECONDS,
                attempted=f"convert the disk image to {form}",
            )
            finish(partial, target)
        finally:
            partial.unlink(missing_ok=True)
