"""Master boot records and the chains of logical partitions.

Sources: UEFI specification 2.10, section 5.2 (MBR); the extended boot record as Linux reads it
(block/partitions/msdos.c) and sfdisk(8) writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.disk.blocks.partition import Partition, table_error
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import Stretch

SECTOR = 512
"""Bytes; what MBR fields count in (on disks with 4096-byte sectors too, in practice no more)."""
EXTENDED = frozenset({0x05, 0x0F, 0x85})
FIRST_LOGICAL = 5
_TABLE, _ENTRY, _SIGNATURE = 446, 16, 510
_MAX_LOGICAL = 256
"""More than Linux gives names to; a longer chain is damage."""


@dataclass(frozen=True)
class Entry:
    """One of a boot record's four. start and count in sectors of 512 bytes; what start counts
    from depends on the record.
    """

    status: int
    kind: int
    start: int
    count: int


def read_mbr(disk: Source) -> list[Entry] | None:
    """The four entries of sector 0, or None if it holds no partition table.

    A boot sector of a file system also ends in 55AA; its code there does not look like entries.
    """
    if disk.size < SECTOR:
        return None
    sector = disk.read(0, SECTOR)
    if sector[_SIGNATURE:] != b"\x55\xaa":
        return None
    entries = list(_entries(sector))
    if any(entry.status not in (0, 0x80) for entry in entries):
        return None
    return entries if any(entry.kind and entry.count for entry in entries) else None


def mbr_partitions(disk: Source, entries: Iterable[Entry]) -> Iterator[Partition]:
    """Primary partitions, then the logical ones of every extended partition."""
    signature = f"{int.from_bytes(disk.read(440, 4), 'little'):08x}"

    def partition(number: int, start: int, entry: Entry) -> Partition:
        where = Stretch(start * SECTOR, entry.count * SECTOR)
        return Partition(number, where, f"{entry.kind:02x}", f"{signature}-{number:02x}")

    logical = FIRST_LOGICAL
    extended: list[Entry] = []
    for number, entry in enumerate(entries, 1):
        if not entry.kind or not entry.count:
            continue
        if entry.kind in EXTENDED:
            extended.append(entry)
        else:
            yield partition(number, entry.start, entry)
    for container in extended:
        for start, entry in _chain(disk, container):
            yield partition(logical, start, entry)
            logical += 1


def _chain(disk: Source, container: Entry) -> Iterator[tuple[int, Entry]]:
    """(first sector, entry) of each logical partition of an extended one."""
    seen: set[int] = set()
    record = container.start
    while True:
        if record in seen or len(seen) >= _MAX_LOGICAL:
            raise table_error(disk, "the chain of its logical partitions has no end")
        seen.add(record)
        if (record + 1) * SECTOR > disk.size:
            raise table_error(
                disk, f"an extended boot record lies at sector {record}, beyond its end"
            )
        sector = disk.read(record * SECTOR, SECTOR)
        if sector[_SIGNATURE:] != b"\x55\xaa":
            if len(seen) == 1:  # an extended partition that was never filled
                return
            raise table_error(disk, f"there is no extended boot record at sector {record}")
        following = 0
        for entry in list(_entries(sector))[:2]:
            if entry.kind in EXTENDED:
                # Relative to the extended partition, unlike a logical partition's own start.
                following = following or entry.start
            elif entry.kind and entry.count:
                end = entry.start + entry.count + record
                if end > container.start + container.count:
                    raise table_error(disk, "a logical partition ends outside of its extended one")
                yield record + entry.start, entry
        if not following:
            return
        record = container.start + following


def _entries(sector: bytes) -> Iterator[Entry]:
    for offset in range(_TABLE, _SIGNATURE, _ENTRY):
        entry = sector[offset : offset + _ENTRY]
        yield Entry(
            entry[0],
            entry[4],
            int.from_bytes(entry[8:12], "little"),
            int.from_bytes(entry[12:16], "little"),
        )
