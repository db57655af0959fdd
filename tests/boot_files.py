"""Kernels and ramdisks small enough for tests, in the formats of real ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping


def kernel(release: str = "5.14.0", *, payload: int = 4096) -> bytes:
    """A bzImage's header with nothing to run behind it (Linux, arch/x86/boot.rst)."""
    setup_sectors = 4
    head = bytearray((setup_sectors + 1) * 512)
    head[0x1F1] = setup_sectors
    struct.pack_into("<I", head, 0x1F4, payload // 16)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x020F)
    struct.pack_into("<H", head, 0x20E, 0x400 - 0x200)
    head[0x211] = 1
    text = f"{release} (builder@example) #1 SMP".encode() + b"\0"
    head[0x400 : 0x400 + len(text)] = text
    return bytes(head) + bytes(payload)


def cpio(files: Mapping[str, bytes]) -> bytes:
    """A newc archive of regular files."""
    pieces = []
    for name, data in [*files.items(), ("TRAILER!!!", b"")]:
        encoded = name.encode() + b"\0"
        fields = [1, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + "".join(f"{field:08X}" for field in fields).encode()
        pieces.append(header + encoded + bytes(-(len(header) + len(encoded)) % 4))
        pieces.append(data + bytes(-len(data) % 4))
    return b"".join(pieces)


def ramdisk(version: str = "5.14.0", modules: tuple[str, ...] = ()) -> bytes:
    """An archive with modules of a version."""
    names = modules or ("virtio_blk", "virtio_pci", "ext4")
    return cpio({f"lib/modules/{version}/kernel/x/{name}.ko.xz": b"module" for name in names})
