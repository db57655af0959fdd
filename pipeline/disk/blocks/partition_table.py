"""The partition table of a disk, of whichever kind."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.disk.blocks.gpt import read_gpt
from pipeline.disk.blocks.mbr import mbr_partitions, read_mbr
from pipeline.disk.blocks.partition import Partition, table_error
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import overlap

_PROTECTIVE = 0xEE
_FOREIGN = (  # (offset, signature, whose table)
    (0, b"\x0b\xe5\xa9\x41", "SGI"),
    (508, b"\xda\xbe", "Sun"),
    (512, b"\x57\x45\x56\x82", "BSD"),
    (512, b"PM\0\0", "Apple"),
    (0, b"\xc9\xc2\xd4\xc1", "AIX"),
    (0, b"RDSK", "Amiga"),
)
_HEAD = 1024


@dataclass(frozen=True)
class Table:
    """A disk's partitions. kind: "dos", "gpt" or "none".

    foreign: whose kind of table the disk has instead, of those that are not read ("SGI"); "".
    """

    kind: str
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()
    foreign: str = ""


def read_table(disk: Source) -> Table:
    """The partition table of a disk; DiskError if it contradicts itself.

    As Linux does, a GPT counts only behind a protective MBR: an old one that fdisk left behind
    must not come back to life.
    """
    entries = read_mbr(disk)
    if entries is None:
        return Table("none", (), foreign=_foreign(disk))
    notes: tuple[str, ...] = ()
    if any(entry.kind == _PROTECTIVE for entry in entries):
        kind = "gpt"
        partitions, notes = read_gpt(disk)
    else:
        kind = "dos"
        partitions = tuple(mbr_partitions(disk, entries))
    clash = overlap(partition.stretch for partition in partitions)
    if clash:
        first, second = (
            next(p.number for p in partitions if p.stretch is stretch) for stretch in clash
        )
        raise table_error(disk, f"its partitions {first} and {second} overlap")
    return Table(kind, partitions, notes)


def _foreign(disk: Source) -> str:
    """Whose kind of partition table a disk without an MBR has; "" for none that is known."""
    head = disk.read(0, min(disk.size, _HEAD))
    found = (whose for offset, mark, whose in _FOREIGN if head.startswith(mark, offset))
    return next(found, "")
