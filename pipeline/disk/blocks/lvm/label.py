"""LVM2 on disk: the label of a physical volume and the metadata areas it points to.

Formats and constants are those of lvm2's own sources: lib/label/label.h, lib/format_text/layout.h
and lib/misc/crc.c; field names as `pvck --dump headers` prints them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.lvm.text import MetadataError, Section, number, parse, string
from pipeline.disk.blocks.source import Source

SECTOR = 512
"""Bytes; lvm2 counts in these whatever the disk's own sectors are."""
LABEL_SECTORS = 4
INITIAL_CRC = 0xF597A6CF
MDA_HEADER_SIZE = 512
MDA_MAGIC = b" LVM2 x[5A%r0N*>"
_LABEL = struct.Struct("<8sQII8s")
_MDA = struct.Struct("<I16sIQQ")
_RAW_LOCATION = struct.Struct("<QQII")
_AREA = struct.Struct("<QQ")
_IGNORED = 1  # RAW_LOCN_IGNORED: the area is not in use
_MAX_AREAS = 16  # lvm2 writes at most two metadata areas
_MAX_TEXT = 16 << 20
"""Bytes of metadata; lvm2's own areas are 1 MiB by default and groups of a thousand volumes fit."""


@dataclass(frozen=True)
class Metadata:
    """One copy of a volume group's metadata."""

    group: str
    group_id: str
    seqno: int
    section: Section


@dataclass(frozen=True)
class PhysicalVolume:
    """A physical volume. uuid: 32 characters, without hyphens. device: its bytes. copies: the
    readable metadata. damage: what is wrong with the others.
    """

    uuid: str
    device: Source
    copies: tuple[Metadata, ...]
    damage: tuple[str, ...] = field(default=())


def checksum(data: bytes) -> int:
    """lvm2's CRC: the usual polynomial, its own initial value, no final inversion."""
    return zlib.crc32(data, INITIAL_CRC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def read_label(device: Source) -> PhysicalVolume | None:
    """The physical volume in a partition or on a whole disk; None if it is none.

    DiskError for a label that is there but damaged.
    """
    broken = False
    for sector in range(min(LABEL_SECTORS, device.size // SECTOR)):
        raw = device.read(sector * SECTOR, SECTOR)
        identity, number, crc, offset, kind = _LABEL.unpack_from(raw)
        if identity != b"LABELONE" or kind != b"LVM2 001":
            continue
        if number == sector and checksum(raw[20:]) == crc and 32 <= offset <= SECTOR - 40:
            return _physical_volume(device, raw[offset:])
        broken = True
    if broken:
        raise _damaged(device, "its label's checksum is wrong")
    return None


def _physical_volume(device: Source, header: bytes) -> PhysicalVolume:
    uuid = header[:32].decode("ascii", errors="replace")
    try:
        metadata = read_areas(header[40:]).metadata
    except struct.error:
        raise _damaged(device, "the list of its areas has no end") from None
    copies: list[Metadata] = []
    damage: list[str] = []
    for start, size in metadata:
        try:
            copy = _metadata(device, start, size)
        except (MetadataError, DiskError) as error:
            reason = error.why if isinstance(error, DiskError) else str(error)
            damage.append(f"metadata area at byte {start} of {device.name}: {reason}")
            continue
        if copy:
            copies.append(copy)
    return PhysicalVolume(uuid, device, tuple(copies), tuple(damage))


@dataclass(frozen=True)
class Areas:
    """The two lists behind a physical volume's header, each (offset, bytes)."""

    data: tuple[tuple[int, int], ...]
    metadata: tuple[tuple[int, int], ...]


def read_areas(raw: bytes) -> Areas:
    """Both lists; each ends with an entry of zeros. struct.error when they do not end."""
    position = 0

    def until_zero() -> Iterator[tuple[int, int]]:
        nonlocal position
        for _ in range(_MAX_AREAS):
            start, size = _AREA.unpack_from(raw, position)
            position += _AREA.size
            if not start:
                return
            yield start, size
        raise struct.error("no end")

    return Areas(tuple(until_zero()), tuple(until_zero()))


def _metadata(device: Source, start: int, size: int) -> Metadata | None:
    """The copy in one metadata area; None for one not in use. MetadataError says what is wrong."""
    header = device.read(start, MDA_HEADER_SIZE)
    crc, magic, version, own_start, own_size = _MDA.unpack_from(header)
    if checksum(header[4:]) != crc:
        raise MetadataError("the header's checksum is wrong")
    if magic != MDA_MAGIC or version != 1 or own_start != start:
        raise MetadataError("the header is not of the known format")
    offset, length, text_crc, flags = _RAW_LOCATION.unpack_from(header, _MDA.size)
    if not offset or not length or flags & _IGNORED:
        return None
    if size not in (0, own_size) or own_size <= MDA_HEADER_SIZE:
        raise MetadataError("the label and the header disagree about its size")
    if not MDA_HEADER_SIZE <= offset < own_size or length > own_size - MDA_HEADER_SIZE:
        raise MetadataError("the metadata lies outside of the area")
    if length > _MAX_TEXT:
        raise MetadataError(f"it claims {length} bytes of metadata")
    # The area is a ring behind its header: what does not fit at the end goes on at its start.
    first = min(length, own_size - offset)
    text = device.read(start + offset, first)
    if first < length:
        text += device.read(start + MDA_HEADER_SIZE, length - first)
    if checksum(text) != text_crc:
        raise MetadataError("the metadata's checksum is wrong")
    return parse_metadata(text)


def parse_metadata(text: bytes) -> Metadata:
    """Metadata from its text. MetadataError when it is no volume group's."""
    top = parse(text.decode("utf-8", errors="replace").rstrip("\0"))
    groups = {name: value for name, value in top.items() if isinstance(value, dict)}
    if len(groups) != 1:
        raise MetadataError(f"it describes {len(groups)} volume groups")
    ((name, section),) = groups.items()
    if not re.fullmatch(r"[A-Za-z0-9_.+-]{1,127}", name):
        raise MetadataError("the volume group has an impossible name")
    return Metadata(name, string(section, "id"), number(section, "seqno"), section)


def _damaged(device: Source, why: str) -> DiskError:
    return DiskError(
        "read the LVM physical volume in",
        device.name,
        why=why,
        next_step="Look at it with `pvck --dump headers`",
    )
