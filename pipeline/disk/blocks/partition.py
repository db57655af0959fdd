"""One partition, whatever the table that names it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.volume import Stretch, Volume


@dataclass(frozen=True)
class Partition:
    """One partition. number: as Linux counts, from 1; logical ones from 5. uuid: PARTUUID as
    blkid prints it. kind: the MBR type as two hex digits, or the GPT type's GUID. refusal: why
    nothing may be taken out of it; "" if it may. attributes: of a GPT entry, 0 in an MBR.
    """

    number: int
    stretch: Stretch
    kind: str
    uuid: str
    label: str = ""
    refusal: str = ""
    attributes: int = 0

    def volume(self, disk: Source) -> Volume:
        """The partition's bytes."""
        return Volume(disk, (self.stretch,), f"partition {self.number} of {disk.name}")


def table_error(disk: Source, why: str) -> DiskError:
    """The error for a partition table that contradicts itself or the disk."""
    return DiskError(
        "read the partition table of",
        disk.name,
        why=why,
        next_step="Look at it with `sfdisk --dump` and `sfdisk --verify`",
    )
