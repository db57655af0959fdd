"""Writers of partition tables and LVM2 metadata, made from the formats' documentation alone.

They share nothing with the readers under test. What they write is checked against sfdisk and
pvck in tests/integration/test_extract_tables.py.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

LINUX = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")


class Writable(Protocol):
    size: int

    def write(self, offset: int, data: bytes) -> None: ...


def boot_record(entries: Sequence[tuple[int, int, int]], signature: int = 0) -> bytes:
    """A sector with (type, first sector, sectors) entries."""
    table = b"".join(
        struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)
        for kind, start, count in entries
    )
    return (bytes(440) + struct.pack("<IH", signature, 0) + table).ljust(510, b"\0") + b"\x55\xaa"


def write_mbr(
    disk: Writable,
    primary: Sequence[tuple[int, int, int]],
    signature: int = 0x12345678,
) -> None:
    """Primary partitions, in order."""
    disk.write(0, boot_record(primary, signature))


def write_logical(
    disk: Writable, start: int, count: int, logical: Sequence[tuple[int, int, int]]
) -> tuple[int, int, int]:
    """A chain of logical partitions (type, first sector, sectors), each with its boot record in
    the sector before it; the entry of the extended partition of `count` sectors at `start`.
    """
    places = [start, *(first - 1 for _, first, _ in logical[1:])]
    for index, ((kind, first, length), record) in enumerate(zip(logical, places, strict=True)):
        entries = [(kind, first - record, length)]
        if index + 1 < len(logical):
            following = places[index + 1]
            entries.append((5, following - start, logical[index + 1][2] + 1))
        disk.write(record * 512, boot_record(entries))
    return (5, start, count)


def write_gpt(
    disk: Writable,
    partitions: Sequence[tuple[int, int, str]],
    sector: int = 512,
    *,
    primary: bool = True,
) -> None:
    """(first sector, last sector, name) partitions, in both tables, and the protective MBR."""
    last = disk.size // sector - 1
    table = b"".join(
        LINUX.bytes_le
        + UUID(int=0xABC0000 + index).bytes_le
        + struct.pack("<QQQ", first, end, 0)
        + name.encode("utf-16-le").ljust(72, b"\0")
        for index, (first, end, name) in enumerate(partitions)
    ).ljust(128 * 128, b"\0")
    room = -(-len(table) // sector)
    disk.write(0, boot_record([(0xEE, 1, min(last, 0xFFFFFFFF))]))
    for own, other, place in ((1, last, 2), (last, 1, last - room)):
        if own == 1 and not primary:
            continue

        def header(crc: int, own: int = own, other: int = other, place: int = place) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART", 0x10000, 92, crc, 0, own, other, 2 + room, last - room - 1,
                UUID(int=7).bytes_le, place, 128, 128, zlib.crc32(table),
            )  # fmt: skip

        disk.write(own * sector, header(zlib.crc32(header(0))))
        disk.write(place * sector, table)


def lvm_crc(data: bytes) -> int:
    """Bit by bit, from lib/misc/crc.c's description: reflected 0xEDB88320, no inversions."""
    value = 0xF597A6CF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
    return value


@dataclass(frozen=True)
class Pv:
    """A physical volume to write: its place on the disk and its place in the text."""

    name: str
    uuid: str  # 32 characters
    start: int  # bytes on the disk
    size: int
    pe_start: int = 2048  # sectors
    areas: tuple[tuple[int, int], ...] = ((4096, (1 << 20) - 4096),)

    @property
    def dashed(self) -> str:
        parts, position = [], 0
        for length in (6, 4, 4, 4, 4, 4, 6):
            parts.append(self.uuid[position : position + length])
            position += length
        return "-".join(parts)


def group_text(
    name: str,
    pvs: Sequence[Pv],
    volumes: Sequence[tuple[str, Sequence[tuple[int, str, int]]]],
    *,
    seqno: int = 1,
    extent_sectors: int = 8192,
    extra: str = "",
) -> str:
    """Metadata as lvm2 lays it out; a volume is its name and (extents, PV, first extent)s."""
    lines = [f"{name} {{", 'id = "vvvvvv-vvvv-vvvv-vvvv-vvvv-vvvv-vvvvvv"', f"seqno = {seqno}",
             'format = "lvm2" # informational', 'status = ["RESIZEABLE", "READ", "WRITE"]',
             "flags = []", f"extent_size = {extent_sectors}", "physical_volumes {"]  # fmt: skip
    for pv in pvs:
        count = (pv.size // 512 - pv.pe_start) // extent_sectors
        lines += [f"{pv.name} {{", f'id = "{pv.dashed}"', f'device = "/dev/{pv.name}"',
                  'status = ["ALLOCATABLE"]', f"dev_size = {pv.size // 512}",
                  f"pe_start = {pv.pe_start}", f"pe_count = {count}", "}"]  # fmt: skip
    lines += ["}", "logical_volumes {"]
    for volume, segments in volumes:
        lines += [f"{volume} {{", 'id = "l"', 'status = ["READ", "WRITE", "VISIBLE"]',
                  f"segment_count = {len(segments)}"]  # fmt: skip
        position = 0
        for index, (extents, pv_name, first) in enumerate(segments, 1):
            lines += [f"segment{index} {{", f"start_extent = {position}",
                      f"extent_count = {extents}", 'type = "striped"', "stripe_count = 1",
                      f'stripes = [ "{pv_name}", {first} ]', "}"]  # fmt: skip
            position += extents
        lines.append("}")
    return "\n".join([*lines, extra, "}", "}", 'contents = "Text Format Volume Group"',
                      "version = 1", ""])  # fmt: skip


def write_pv(disk: Writable, pv: Pv, text: str, ring_offset: int = 512) -> None:
    """Label, header and every metadata area; `ring_offset`: where in the area the text begins."""
    areas = b"".join(struct.pack("<QQ", *area) for area in pv.areas)
    header = (
        pv.uuid.encode()
        + struct.pack("<Q", pv.size)
        + struct.pack("<QQQQ", pv.pe_start * 512, 0, 0, 0)
        + areas
        + bytes(16)
    )
    body = struct.pack("<I8s", 32, b"LVM2 001") + header
    body = body.ljust(512 - 20, b"\0")
    label = struct.pack("<8sQI", b"LABELONE", 1, lvm_crc(body)) + body
    disk.write(pv.start + 512, label)
    for start, size in pv.areas:
        write_area(disk, pv.start, start, size, text, ring_offset)


def write_area(
    disk: Writable, base: int, start: int, size: int, text: str, ring_offset: int
) -> None:
    """One metadata area at `start` of the physical volume at `base`."""
    raw = text.encode() + b"\0"
    room = size - 512
    assert len(raw) <= room and 512 <= ring_offset < size
    rest = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, start, size)
    rest += struct.pack("<QQII", ring_offset, len(raw), lvm_crc(raw), 0)
    rest = rest.ljust(508, b"\0")
    disk.write(base + start, struct.pack("<I", lvm_crc(rest)) + rest)
    first = raw[: size - ring_offset]
    disk.write(base + start + ring_offset, first)
    disk.write(base + start + 512, raw[len(first) :])
