"""GUID partition tables: UEFI specification 2.10, section 5.3."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from pipeline.disk.blocks.partition import Partition, table_error
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import Stretch

_SIGNATURE = b"EFI PART"
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_MAX_TABLE = 4 << 20
"""Bytes of partition entries; 128 entries of 128 bytes are usual."""
_SECTORS = (512, 4096)


@dataclass(frozen=True)
class _Header:
    sector: int
    first_usable: int
    last_usable: int
    entries: bytes
    entry_size: int


def read_gpt(disk: Source) -> tuple[tuple[Partition, ...], tuple[str, ...]]:
    """Partitions and notes, by the primary header or else by the backup in the last sector."""
    damage: list[str] = []
    for sector in _SECTORS:
        header = _header(disk, sector, 1, damage)
        if header:
            return _partitions(header)
    for sector in _SECTORS:
        header = _header(disk, sector, disk.size // sector - 1, damage)
        if header:
            why = damage[0] if damage else "no header is there"
            partitions, notes = _partitions(header)
            said = f"The primary GPT is damaged ({why}); the backup at the end was used"
            return partitions, (said, *notes)
    raise table_error(
        disk, f"both copies of its GPT are damaged: {'; '.join(damage) or 'no header is there'}"
    )


def _header(disk: Source, sector: int, lba: int, damage: list[str]) -> _Header | None:
    """The header at `lba` if it and its entries are whole; what is wrong goes to `damage`."""
    if lba < 1 or (lba + 1) * sector > disk.size:
        return None
    raw = disk.read(lba * sector, sector)
    if not raw.startswith(_SIGNATURE):
        return None
    _, revision, size, checksum, _, own, _, first, last, _, table, count, entry_size, crc = (
        _HEADER.unpack_from(raw)
    )
    if revision < 0x10000 or not _HEADER.size <= size <= sector:
        damage.append(f"header at sector {lba}: its revision or size is impossible")
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != checksum:
        damage.append(f"header at sector {lba}: wrong checksum")
        return None
    length = count * entry_size
    if own != lba or entry_size < 128 or entry_size % 8 or length > _MAX_TABLE or first > last:
        damage.append(f"header at sector {lba}: its figures are impossible")
        return None
    if table * sector + length > disk.size:
        damage.append(f"header at sector {lba}: its entries lie beyond the end")
        return None
    entries = disk.read(table * sector, length)
    if zlib.crc32(entries) != crc:
        damage.append(f"entries at sector {table}: wrong checksum")
        return None
    return _Header(sector, first, last, entries, entry_size)


def _partitions(header: _Header) -> tuple[tuple[Partition, ...], tuple[str, ...]]:
    """The entries, and notes on those that cannot be partitions."""
    found: list[Partition] = []
    notes: list[str] = []
    for index in range(len(header.entries) // header.entry_size):
        entry = header.entries[index * header.entry_size :][:128]
        if entry[:16] == bytes(16):
            continue
        first, last, attributes = struct.unpack_from("<QQQ", entry, 32)
        if not 0 < first <= last:
            notes.append(
                f"Partition {index + 1} is left out: its sectors {first} to {last} are impossible"
            )
            continue
        refusal = ""
        # Firmware and Linux take such a partition as it is; a root that the table's own header
        # places outside of itself is too doubtful.
        if not header.first_usable <= first <= last <= header.last_usable:
            refusal = (
                f"its sectors {first} to {last} are not within those that the GPT calls usable, "
                f"{header.first_usable} to {header.last_usable}"
            )
        # Both ends are inclusive.
        stretch = Stretch(first * header.sector, (last - first + 1) * header.sector)
        kind, uuid = (str(UUID(bytes_le=entry[at : at + 16])) for at in (0, 16))
        label = entry[56:128].decode("utf-16-le", errors="replace").split("\0")[0]
        found.append(Partition(index + 1, stretch, kind, uuid, label, refusal, attributes))
    return tuple(found), tuple(notes)
