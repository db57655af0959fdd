"""A bootable whole disk from an image set: GPT, GRUB for BIOS and for UEFI, no root needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pipeline.errors import DiskError
from pipeline.stage import Tools

DiskFormat = Literal["raw", "qcow2", "vmdk", "vhd"]


def make_disk(
    machine: Path,
    kernel: Path,
    ramdisk: Path,
    command_line: str,
    out: Path,
    tools: Tools,
    formats: Sequence[DiskFormat] = ("raw",),
) -> dict[DiskFormat, Path]:
    """Write the disk as `out` with one suffix a format (.raw, .qcow2, .vmdk, .vhd).

    command_line: the kernel command line its boot menu uses; must find the root by label or UUID.
    Same inputs give the same raw bytes.
    """
    raise DiskError("make a bootable disk of", machine, why="it is not in this revision yet")
