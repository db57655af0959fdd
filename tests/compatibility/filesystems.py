"""File systems and their features as roots, and kinds that are no root here."""

from __future__ import annotations

import struct
from functools import partial
from pathlib import Path

from tests.compatibility.attempt import Case, Made
from tests.compatibility.roots import EXT_MIB, ext, on_partition, patch, sized, tree, xfs
from tests.fixtures.disks import mounted
from tests.fixtures.disks.tools import run

_EXT2, _EXT3, _EXT4 = (f"mke2fs -q -F -t ext{version}" for version in (2, 3, 4))
EXT = {
    "ext2, defaults": _EXT2,
    "ext2, blocks of 4 KiB": f"{_EXT2} -b 4096",
    "ext2, blocks of 1 KiB": f"{_EXT2} -b 1024",
    "ext2, inodes of 128 bytes": f"{_EXT2} -I 128",
    "ext3, defaults": _EXT3,
    "ext3, blocks of 4 KiB": f"{_EXT3} -b 4096",
    "ext3, blocks of 1 KiB": f"{_EXT3} -b 1024",
    "ext4, defaults": _EXT4,
    "ext4, blocks of 4 KiB": f"{_EXT4} -b 4096",
    "ext4, blocks of 1 KiB": f"{_EXT4} -b 1024",
    "ext4, blocks of 2 KiB": f"{_EXT4} -b 2048",
    "ext4, inodes of 128 bytes": f"{_EXT4} -I 128 -O ^extra_isize",
    "ext4, inodes of 1 KiB": f"{_EXT4} -I 1024",
    "ext4 without 64bit": f"{_EXT4} -O ^64bit",
    "ext4 without metadata_csum": f"{_EXT4} -O ^metadata_csum",
    "ext4 with uninit_bg in place of metadata_csum": f"{_EXT4} -O ^metadata_csum,uninit_bg",
    "ext4 with metadata_csum_seed": f"{_EXT4} -O metadata_csum_seed",
    "ext4 with orphan_file": f"{_EXT4} -O orphan_file",
    "ext4 with metadata_csum_seed and orphan_file (defaults since e2fsprogs 1.47.1)": (
        f"{_EXT4} -O metadata_csum_seed,orphan_file"
    ),
    "ext4 with fast_commit": f"{_EXT4} -O fast_commit",
    "ext4 without a journal": f"{_EXT4} -O ^has_journal",
    "ext4 with meta_bg": f"{_EXT4} -O meta_bg,^resize_inode",
    "ext4 with bigalloc": f"{_EXT4} -O bigalloc",
    "ext4 without flex_bg": f"{_EXT4} -O ^flex_bg",
    "ext4 with sparse_super2": f"{_EXT4} -O sparse_super2,^resize_inode",
    "ext4 without extents": f"{_EXT4} -O ^extent,^64bit",
    "ext4 with large_dir": f"{_EXT4} -O large_dir",
    "ext4 with ea_inode": f"{_EXT4} -O ea_inode",
    "ext4 with mmp": f"{_EXT4} -O mmp",
    "ext4 with casefold": f"{_EXT4} -O casefold -E encoding=utf8",
    "ext4 with quota": f"{_EXT4} -O quota",
    "ext4 with quota and project": f"{_EXT4} -O quota,project",
    "ext4 with encrypt (no file is encrypted)": f"{_EXT4} -O encrypt",
    "ext4 with verity, blocks of 4 KiB (no file is sealed)": f"{_EXT4} -O verity -b 4096",
    "ext4 with stable_inodes": f"{_EXT4} -O stable_inodes",
}
# mke2fs -d of e2fsprogs 1.47.0 writes wrong sizes into a file system with inline data: the kernel
# fills this one.
INLINE = {"ext4 with inline_data": f"{_EXT4} -O inline_data"}
XFS = {
    "XFS 5, defaults": "mkfs.xfs -q",
    "XFS 4": "mkfs.xfs -q -m crc=0",
    "XFS 4 without ftype": "mkfs.xfs -q -m crc=0 -n ftype=0",
    "XFS 5 without reflink": "mkfs.xfs -q -m reflink=0",
    "XFS 5 without bigtime, inobtcount and sparse": (
        "mkfs.xfs -q -m bigtime=0,inobtcount=0 -i sparse=0"
    ),
    "XFS 5 with rmapbt": "mkfs.xfs -q -m rmapbt=1",
    "XFS 5 with nrext64": "mkfs.xfs -q -i nrext64=1",
    "XFS 5, blocks of 1 KiB, names without case": "mkfs.xfs -q -b size=1024 -n version=ci",
}
# What Linux before 6.3 takes in blocks of its pages' size alone, with the words of its refusal.
VERITY = {"ext4 with verity, blocks of 1 KiB": (f"{_EXT4} -O verity -b 1024", "fs-verity")}
# Bits of features_incompat that mkfs.xfs 6.1 does not know: xfs_db writes them with their checksum.
NEWER_XFS = {
    "XFS with exchange and parent (defaults since xfsprogs 6.18)": (0xEB, "exchange.*parent"),
    "XFS with metadir": (0x1EB, "metadir"),
    "XFS with needsrepair": (0x1B, "needsrepair"),
    "XFS with a feature that nobody has yet": (0x8000000B, "0x80000000"),
}
_INCOMPAT = 0x400 + 0x60
# What blkid calls it, the bytes that say so, and a word that the error must have.
OTHERS: dict[str, tuple[int, bytes, str]] = {
    "btrfs": (0x10040, b"_BHRfS_M", "btrfs"),
    "LUKS": (0, b"LUKS\xba\xbe\0\2", "LUKS"),
    "BitLocker": (3, b"-FVE-FS-", "BitLocker"),
    "member of a Linux RAID": (0x1000, b"\xfc\x4e\x2b\xa9", "raid"),
    "member of a ZFS pool": (0x20000, b"\x0c\xb1\xba\0\0\0\0\0", "zfs"),
    "squashfs": (0, b"hsqs", "squashfs"),
    "erofs": (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
    "bcachefs": (0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), "bcachefs"),
    "bcache": (0x1018, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "bcache"),
    "f2fs": (0x400, b"\x10\x20\xf5\xf2", "f2fs"),
    "jfs": (0x8000, b"JFS1", "jfs"),
    "reiserfs": (0x10034, b"ReIsEr2Fs", "reiserfs"),
    "reiser4": (0x10000, b"ReIsEr4", "reiser4"),
    "nilfs2": (0x406, b"\x34\x34", "nilfs2"),
    "ufs": (0x1055C, b"\x19\x01\x54\x19", "ufs"),
    "hfsplus": (0x400, b"H+\0\x04", "hfsplus"),
    "apfs": (0x20, b"NXSB", "apfs"),
    "ntfs": (3, b"NTFS    ", "ntfs"),
    "exfat": (3, b"EXFAT   ", "exfat"),
    "udf": (0x8001, b"BEA01", "udf"),
    "iso9660": (0x8001, b"CD001", "iso9660"),
    "cramfs": (0, b"\x45\x3d\xcd\x28", "cramfs"),
    "romfs": (0, b"-rom1fs-", "romfs"),
    "VDO": (0, b"dmvdo001", "vdo"),
    "hash tree of dm-verity": (0, b"verity\0\0", "verity"),
    "dm-integrity": (0, b"integrt\0", "integrity"),
    "swap": (4086, b"SWAPSPACE2", "swap"),
}


ABOUT = """\
Each is the one partition of a small disk. The ext file systems have 96 MiB, for which mke2fs's
defaults are blocks of 1 KiB; larger ones have 4 KiB, as in the rows that say so and in the layouts
below (1 GiB). TREE is the folder of a small Debian. Where a signature is all that was written, no
program of that file system had a part in it. Some rows are of features that only need a bit of the
superblock: no file was encrypted, sealed or of a project.
"""


def cases() -> list[Case]:
    """Every row of the section, in its order."""
    found = [Case(name, f"{line} -d TREE", partial(_ext, line)) for name, line in EXT.items()]
    found += [
        Case(name, f"{line}, filled by the kernel", partial(_filled, line))
        for name, line in INLINE.items()
    ]
    found += [
        Case(name, f"{line} -d TREE", partial(_ext, line), named)
        for name, (line, named) in VERITY.items()
    ]
    found.append(
        Case(
            "ext4 with a feature that nobody has yet",
            f"{_EXT4}, then bit 31 of s_feature_incompat",
            _unknown_ext,
            "features? that this host's e2fsck does not know|unsupported feature",
        )
    )
    found += [Case(name, f"{line} -p TREE", partial(_xfs, line)) for name, line in XFS.items()]
    found += [
        Case(
            name,
            f"mkfs.xfs -q, then xfs_db: write -d features_incompat {bits:#x}",
            partial(_newer_xfs, bits),
            named,
        )
        for name, (bits, named) in NEWER_XFS.items()
    ]
    found += [
        Case(name, f"its signature at {at:#x}", partial(_signed, at, signature), named)
        for name, (at, signature, named) in OTHERS.items()
    ]
    return found


def _ext(command: str, place: Path) -> Made:
    image = ext(place / "root.fs", command)
    return Made(on_partition(image, place / "disk.raw"), tree()[1], image)


def _filled(command: str, place: Path) -> Made:
    image = sized(place / "root.fs", EXT_MIB)
    run(*command.split(), image)
    with mounted(image, place / "top") as top:
        run("cp", "-a", f"{tree()[0]}/.", top)
    return Made(on_partition(image, place / "disk.raw"), tree()[1], image)


def _unknown_ext(place: Path) -> Made:
    image = ext(place / "root.fs", f"{_EXT4} -O ^metadata_csum")
    with image.open("rb") as file:
        file.seek(_INCOMPAT)
        (bits,) = struct.unpack("<I", file.read(4))
    patch(image, [(_INCOMPAT, struct.pack("<I", bits | 1 << 31))])
    return Made(on_partition(image, place / "disk.raw"))


def _xfs(command: str, place: Path) -> Made:
    return Made(on_partition(xfs(place / "root.fs", command), place / "disk.raw"), tree()[1])


def _newer_xfs(bits: int, place: Path) -> Made:
    image = xfs(place / "root.fs", "mkfs.xfs -q")
    run("xfs_db", "-x", "-c", "sb 0", "-c", f"write -d features_incompat {bits:#x}", image)
    return Made(on_partition(image, place / "disk.raw"))


def _signed(at: int, signature: bytes, place: Path) -> Made:
    image = patch(sized(place / "volume", 32), [(at, signature)])
    return Made(on_partition(image, place / "disk.raw"))
