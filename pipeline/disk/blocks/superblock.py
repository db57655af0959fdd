"""What a volume holds, by its signatures, named as blkid(8) names it.

Sources: the kernel's documentation of ext4 (super block), xfs_db(8) and the XFS Algorithms & Data
Structures book (sb), the btrfs on-disk format (superblock), mkswap.c, md(4), and blkid's own
list of signatures (libblkid/src/superblocks).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from pipeline.disk.blocks.source import Source

_HEAD = 0x10000 + 0x1000
"""Bytes that hold every signature looked for: btrfs has its superblock at 64 KiB."""
_EXT3_INCOMPAT = 0x2 | 0x4 | 0x10  # filetype, recover, meta_bg
_EXT3_RO_COMPAT = 0x1 | 0x2 | 0x4  # sparse_super, large_file, btree_dir
_RAID = b"\xfc\x4e\x2b\xa9"
_RAID_RESERVED = 0x10000
"""Bytes at a member's end, and what its size is rounded down to, for metadata 0.90."""
_SIMPLE = (  # (offset, signature, type)
    (0, b"LUKS\xba\xbe", "crypto_LUKS"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (0, b"hsqs", "squashfs"),
    (0, b"sqsh", "squashfs"),
    (0, b"\x45\x3d\xcd\x28", "cramfs"),
    (0, b"-rom1fs-", "romfs"),
    (0, b"dmvdo001", "vdo"),
    (0, b"verity\0\0", "DM_verity_hash"),
    (0, b"integrt\0", "DM_integrity"),
    (0x20, b"NXSB", "apfs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
    (0x400, b"H+\0\x04", "hfsplus"),
    (0x400, b"HX\0\x05", "hfsplus"),
    (0x8001, b"CD001", "iso9660"),
    (0x10034, b"ReIsEr", "reiserfs"),
    (0x8000, b"JFS1", "jfs"),
    (0x1000, _RAID, "linux_raid_member"),
    (0, _RAID, "linux_raid_member"),
)
_LATE = (  # places that mkfs of another file system leaves as they were: only when all else fails
    (0x1018, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "bcachefs"),
    (0x1018, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    (0x8001, b"BEA01", "udf"),
    (0x8001, b"NSR0", "udf"),
    (0x406, b"\x34\x34", "nilfs2"),
    (0x10000, b"ReIsEr4", "reiser4"),
    (0x1055C, b"\x19\x01\x54\x19", "ufs"),
)
_ZFS_UBERBLOCKS = 0x20000
"""Where the ring of the first label's uberblocks begins; it has 128 KiB."""
_ZFS_UBERBLOCK = 1024
_ZFS_MAGIC = (b"\x0c\xb1\xba\0\0\0\0\0", b"\0\0\0\0\0\xba\xb1\x0c")
_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)


@dataclass(frozen=True)
class Superblock:
    """The signature of a volume. size: bytes of the file system, 0 if it does not say.

    uuid and label as blkid prints them; a UUID of zeros is none. dirty: whether its journal must be
    replayed first; always False for XFS, whose superblock does not tell. ro_compat, incompat: the
    feature words of XFS version 5, 0 for all others.
    """

    type: str
    uuid: str = ""
    label: str = ""
    size: int = 0
    dirty: bool = False
    ro_compat: int = 0
    incompat: int = 0


def recognise(volume: Source) -> Superblock | None:
    """The signature a volume carries, or None."""
    head = volume.read(0, min(volume.size, _HEAD))
    head = head.ljust(_HEAD, b"\0")
    found = _signed(head, _SIMPLE)
    for probe in (_xfs, _ext, _btrfs, _swap, _fat):
        found = found or probe(head)
    return found or _signed(head, _LATE) or _zfs(volume) or _raid_at_the_end(volume)


def _signed(head: bytes, signatures: Iterable[tuple[int, bytes, str]]) -> Superblock | None:
    for offset, signature, name in signatures:
        if head.startswith(signature, offset):
            return Superblock(name)
    return None


def _zfs(volume: Source) -> Superblock | None:
    """A member of a ZFS pool: one of its uberblocks, of either byte order."""
    if volume.size < 2 * _ZFS_UBERBLOCKS:
        return None
    ring = volume.read(_ZFS_UBERBLOCKS, _ZFS_UBERBLOCKS)
    starts = range(0, len(ring), _ZFS_UBERBLOCK)
    return (
        Superblock("zfs_member") if any(ring.startswith(_ZFS_MAGIC, at) for at in starts) else None
    )


def _raid_at_the_end(volume: Source) -> Superblock | None:
    """A member of a software RAID with its superblock at the end: metadata 0.90 and 1.0.

    Asked last: a whole mirror is what its file system says at the beginning.
    """
    ends = (
        volume.size // _RAID_RESERVED * _RAID_RESERVED - _RAID_RESERVED,
        (volume.size // 512 - 16) // 8 * 8 * 512,
    )
    magic = any(at >= 0 and volume.read(at, len(_RAID)) == _RAID for at in ends)
    return Superblock("linux_raid_member") if magic else None


def _ext(head: bytes) -> Superblock | None:
    raw = head[1024:2048]
    if raw[0x38:0x3A] != b"\x53\xef" or _u32(raw, 0x18) > 6:
        return None
    compat, incompat, ro_compat = _u32(raw, 0x5C), _u32(raw, 0x60), _u32(raw, 0x64)
    if incompat & 0x8:
        name = "jbd"
    elif incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        name = "ext4"
    else:
        name = "ext3" if compat & 0x4 else "ext2"
    blocks = _u32(raw, 0x4) | (_u32(raw, 0x150) << 32 if incompat & 0x80 else 0)
    return Superblock(
        name,
        str(UUID(bytes=raw[0x68:0x78])),
        _text(raw[0x78:0x88]),
        blocks * (1024 << _u32(raw, 0x18)),
        bool(incompat & 0x4),
    )


def _xfs(head: bytes) -> Superblock | None:
    if not head.startswith(b"XFSB"):
        return None
    block_size, blocks = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:16], "big")
    uuid = str(UUID(bytes=head[32:48]))
    label, size = _text(head[108:120]), block_size * blocks
    if int.from_bytes(head[100:102], "big") & 0xF != 5:
        return Superblock("xfs", uuid, label, size)
    ro_compat, incompat = (int.from_bytes(head[at : at + 4], "big") for at in (212, 216))
    return Superblock("xfs", uuid, label, size, ro_compat=ro_compat, incompat=incompat)


def _btrfs(head: bytes) -> Superblock | None:
    raw = head[0x10000:]
    if raw[0x40:0x48] != b"_BHRfS_M":
        return None
    size = int.from_bytes(raw[0x70:0x78], "little")
    return Superblock("btrfs", str(UUID(bytes=raw[0x20:0x30])), _text(raw[0x12B:0x22B]), size)


def _swap(head: bytes) -> Superblock | None:
    for page in _PAGE_SIZES:
        if head[page - 10 : page] in (b"SWAPSPACE2", b"SWAP-SPACE"):
            uuid = str(UUID(bytes=head[0x40C:0x41C]))
            return Superblock("swap", uuid, _text(head[0x41C:0x42C]))
    return None


def _fat(head: bytes) -> Superblock | None:
    """FAT: extended BIOS parameter block (Microsoft's FAT specification 1.03)."""
    if head[510:512] != b"\x55\xaa":
        return None
    for offset, kind in ((0x27, b"FAT"), (0x43, b"FAT32")):
        label = offset + 4
        if head[label + 11 :].startswith(kind):
            serial = _u32(head, offset)
            name = head[label : label + 11].decode("ascii", errors="replace").rstrip()
            name = "" if name == "NO NAME" else name
            sectors = int.from_bytes(head[19:21], "little") or _u32(head, 32)
            size = sectors * int.from_bytes(head[11:13], "little")
            return Superblock("vfat", f"{serial >> 16:04X}-{serial & 0xFFFF:04X}", name, size)
    return None


def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", errors="replace")
