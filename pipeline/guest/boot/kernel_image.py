"""The header of a kernel file: is it whole, is it bootable, which version does it say it is.

Source: Linux, Documentation/arch/x86/boot.rst (the real-mode kernel header).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from pipeline.core.errors import GuestError
from pipeline.guest.access.paths import shown

_HEADER = 0x260  # bytes up to the end of the header's newest field
_SECTOR = 512
_PARAGRAPH = 16  # the unit of syssize
_MAX_VERSION = 256


def kernel_release(path: Path, name: str = "") -> str:
    """The version in a bzImage's header ("5.14.0-60.el9.x86_64"); "" if it says none.

    name: what the file is called in the guest, where it was copied out of one.
    Raises GuestError for a file that is no x86 kernel, or is cut short.
    """
    size, name = path.stat().st_size, name or str(path)
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if len(head) < _HEADER or head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS":
            raise _unusable(name, "it has no x86 boot header (bzImage)")
        (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
        # Zero means four, for kernels older than any that has virtio.
        whole = ((head[0x1F1] or 4) + 1) * _SECTOR + paragraphs * _PARAGRAPH
        if size < whole:
            raise _unusable(name, f"it has {size} of the {whole} bytes that its header counts")
        if not head[0x211] & 1:
            raise _unusable(name, "it is a zImage, which cannot be loaded high")
        if head[:2] == b"MZ":
            _check_pe(name, head, size)
        (offset,) = struct.unpack_from("<H", head, 0x20E)
        if not offset:
            return ""
        file.seek(offset + 0x200, os.SEEK_SET)
        words = file.read(_MAX_VERSION).partition(b"\0")[0].split()
    return words[0].decode(errors="replace") if words else ""


def _check_pe(name: str, head: bytes, size: int) -> None:
    """A kernel with an EFI stub is a PE file too (offset of the PE header at 0x3c)."""
    (offset,) = struct.unpack_from("<I", head, 0x3C)
    signature = head[offset : offset + 4]
    if offset >= size or (offset + 4 <= len(head) and signature != b"PE\0\0"):
        raise _unusable(name, "its PE header is damaged")


def _unusable(name: str, why: str) -> GuestError:
    return GuestError(
        "use the kernel",
        shown(name),
        why=why,
        next_step="Look at what is installed in the guest's /boot",
    )
