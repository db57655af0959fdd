"""The partition table of a disk, of whichever kind."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.disk.blocks.gpt import read_gpt
from pipeline.disk.blocks.mbr import mbr_partitions, read_mbr
from pipeline.disk.blocks.partition import Partition, table_error
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import overlap

_PROTECTIVE = 0xEE


@dataclass(frozen=True)
class Table:
    """A disk's partitions. kind: "dos", "gpt" or "none"."""

    kind: str
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...] = ()


def read_table(disk: Source) -> Table:
    """The partition table of a disk; DiskError if it contradicts itself.

    As Linux does, a GPT counts only behind a protective MBR: an old one that fdisk left behind
    must not come back to life.
    """
    entries = read_mbr(disk)
    if entries is None:
        return Table("none", ())
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
