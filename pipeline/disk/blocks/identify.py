"""Names the format of a disk image by its first bytes."""

from __future__ import annotations

from pathlib import Path


def disk_format(path: Path) -> str:
    """The format of a disk image by its first bytes: qcow2, vmdk, vhdx, vdi or raw.

    Sources: QEMU docs/interop/qcow2.txt; VMware Virtual Disk Format 1.1; MS-VHDX 2.2.1; the
    VDI header of VirtualBox (signature at byte 64).
    """
    with path.open("rb") as file:
        head = file.read(68)
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(b"KDMV"):
        return "vmdk"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "vdi"
    return "raw"
