"""The extraction stage: an installed disk in, its root filesystem as one flat image out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.disk.source import RawFile
from pipeline.errors import DiskError
from pipeline.model import DiskImage, PartitionImage
from pipeline.stage import Tools

_QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True)
class Extraction:
    """What came out of a disk.

    root: the root filesystem, `scratch/root.img`. boot: a separate /boot, `scratch/boot.img`;
    None when /boot lies in the root. copied: bytes that were copied for both; clones count as
    none. method: how, for the manifest. notes: what people should know, one sentence each.
    """

    root: PartitionImage
    boot: PartitionImage | None
    copied: int
    method: str
    notes: tuple[str, ...] = ()


def open_format(path: Path) -> DiskImage:
    """Recognise a raw or qcow2 disk; InputError for anything else.

    Refuses a qcow2 disk that names other files (a hostile one could name any file of the host)
    or is encrypted.
    """
    with RawFile(path) as disk:
        head = disk.read(0, min(disk.size, 512))
    return DiskImage(path, "qcow2" if head[:4] == _QCOW2_MAGIC else "raw")


def extract(disk: DiskImage, choice: str, tools: Tools) -> Extraction:
    """Copy the root filesystem, and a separate /boot, out of `disk`, which is only read.

    choice: "VG/LV", a partition's number, "0" for a disk without partitions, or "" to find the
    root by inspection. Raises InputError when the choice names nothing or several volumes look
    like a root, DiskError when the disk is damaged or of a kind that is not supported.
    """
    tools.progress.say(f"extracting {choice or 'the root'} from {disk.path}")
    raise DiskError("extract", disk.path, why="volumes are not read yet")
