"""Signatures and checksums against published values. Real mkfs output is held against blkid in
tests/integration/test_extract_tables.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.superblock import recognise
from pipeline.disk.filesystems.checksums import crc16, crc32c
from pipeline.disk.filesystems.ext import Ext, Layout
from pipeline.disk.filesystems.ext_usage import unsafe_features
from pipeline.disk.filesystems.xfs import Xfs
from tests.fixtures.disks.memory import MemoryDisk


def test_published_check_values() -> None:
    # The "check" column of the CRC RevEng catalogue: of the digits 1 to 9.
    assert crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert crc16(b"123456789", 0) == 0xBB3D
    assert crc16(b"123456789") == 0x4B37


@settings(deadline=None)
@given(st.binary(max_size=50), st.binary(max_size=50))
def test_checksums_chain(first: bytes, second: bytes) -> None:
    assert crc32c(first + second) == crc32c(second, crc32c(first))
    assert crc16(first + second) == crc16(second, crc16(first))


@pytest.mark.parametrize(
    ("offset", "signature", "name"),
    [
        (0, b"LUKS\xba\xbe\0\2", "crypto_LUKS"),
        (0, b"hsqs", "squashfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (65526, b"SWAPSPACE2", "swap"),
        (0x10040, b"_BHRfS_M", "btrfs"),
        (0x1000, b"\xfc\x4e\x2b\xa9", "linux_raid_member"),
        ((1 << 20) - 0x10000, b"\xfc\x4e\x2b\xa9", "linux_raid_member"),  # 0.90
        ((1 << 20) - 0x2000, b"\xfc\x4e\x2b\xa9\1\0\0\0", "linux_raid_member"),  # 1.0
        (3, b"NTFS    ", "ntfs"),
        (3, b"EXFAT   ", "exfat"),
        (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
        (0x400, b"H+\0\x04", "hfsplus"),
        (0x406, b"\x34\x34", "nilfs2"),
        (0x1018, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef"), "bcachefs"),
        (0x8001, b"BEA01", "udf"),
        (0x20000 + 7 * 1024, b"\x0c\xb1\xba\0\0\0\0\0", "zfs_member"),
        (0x3FC00, b"\0\0\0\0\0\xba\xb1\x0c", "zfs_member"),
        (0x1055C, b"\x19\x01\x54\x19", "ufs"),
    ],
)
def test_signatures(offset: int, signature: bytes, name: str) -> None:
    disk = MemoryDisk(1 << 20)
    disk.write(offset, signature)
    found = recognise(disk)
    assert found is not None and found.type == name


def test_what_an_earlier_file_system_left_does_not_hide_an_ext() -> None:
    disk = MemoryDisk(1 << 20)
    disk.write(0x438, b"\x53\xef")
    for offset, left in ((0x8001, b"BEA01"), (0x20000, b"\x0c\xb1\xba\0\0\0\0\0"), (0x406, b"44")):
        disk.write(offset, left)
    found = recognise(disk)
    assert found is not None and found.type == "ext2"


@pytest.mark.parametrize(("version", "words"), [(5, (0xF, 0xEB)), (4, (0, 0))])
def test_the_feature_words_of_an_xfs(version: int, words: tuple[int, int]) -> None:
    disk = MemoryDisk(1 << 20)
    disk.write(0, b"XFSB" + (4096).to_bytes(4, "big") + (256).to_bytes(8, "big"))
    disk.write(100, (0xB4A0 | version).to_bytes(2, "big"))
    disk.write(212, (0xF).to_bytes(4, "big") + (0xEB).to_bytes(4, "big"))
    found = recognise(disk)
    assert found is not None and (found.ro_compat, found.incompat) == words


def test_no_signature() -> None:
    assert recognise(MemoryDisk(1 << 20)) is None
    assert recognise(MemoryDisk(10)) is None


def layout(**fields: int) -> Layout:
    raw = bytearray(1024)
    raw[0x18] = 2  # blocks of 4096 bytes
    places = {"state": (0x3A, 2), "compat": (0x5C, 4), "incompat": (0x60, 4), "ro": (0x64, 4),
              "errors": (0x194, 4), "orphan": (0xE8, 4), "journal": (0xE0, 4)}  # fmt: skip
    for name, value in {"state": 1, **fields}.items():
        offset, width = places[name]
        raw[offset : offset + width] = value.to_bytes(width, "little")
    return Layout(bytes(raw))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"incompat": 0x4}, "journal"),
        ({"incompat": 0x10}, "meta_bg"),
        ({"ro": 0x200}, "bigalloc"),
        ({"ro": 0x4000}, "shared blocks"),
        ({"incompat": 1 << 31}, "feature 0x80000000"),
        ({"ro": 1 << 30}, "feature 0x40000000"),
        ({"compat": 1 << 29}, "feature 0x20000000"),
        ({"state": 0}, "cleanly"),
        ({"state": 3}, "cleanly"),
        ({"state": 5}, "cleanly"),
        ({"errors": 1}, "errors"),
        ({"orphan": 12}, "orphans"),
        ({"compat": 4, "journal": 12}, "elsewhere"),
        ({"ro": 0x400}, "checksum"),
    ],
)
def test_whatever_makes_the_bitmaps_doubtful(fields: dict[str, int], words: str) -> None:
    assert words in unsafe_features(layout(**fields))


def test_a_plain_clean_file_system_is_safe() -> None:
    assert unsafe_features(layout(incompat=0x2 | 0x40 | 0x200, ro=1, compat=0x3C, journal=8)) == ""


@settings(deadline=None)
@given(st.binary(min_size=1024, max_size=1024))
def test_any_superblock_is_read_or_refused(raw: bytes) -> None:
    disk = MemoryDisk(1 << 20)
    disk.write(1024, raw[:0x38] + b"\x53\xef" + raw[0x3A:])
    disk.write(8192, raw)
    recognise(disk)
    try:
        filesystem = Ext(disk)
        filesystem.entries(filesystem.inode(2))
    except DiskError:
        pass
    disk.write(0, b"XFSB" + raw[4:512])
    recognise(disk)
    try:
        other = Xfs(disk)
        other.entries(other.inode(other.root))
    except DiskError:
        pass
