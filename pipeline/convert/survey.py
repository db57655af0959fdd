"""What is on a disk: its volumes, their file systems, and which of them looks like a root.

Nothing is mounted and nothing is written: each file system is looked into by its reader. What a
volume is called here is what a user may choose it by: "VG/LV", a partition's number, or "0" for
a disk without partitions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pipeline.core.errors import DiskError
from pipeline.disk.blocks.lvm.groups import Groups, Placed, read_groups
from pipeline.disk.blocks.lvm.label import read_label
from pipeline.disk.blocks.partition import Partition
from pipeline.disk.blocks.partition_table import Table, read_table
from pipeline.disk.blocks.source import Source
from pipeline.disk.blocks.superblock import Superblock, recognise
from pipeline.disk.blocks.volume import Stretch, Volume
from pipeline.disk.filesystems.ext import Ext
from pipeline.disk.filesystems.fat import Fat
from pipeline.disk.filesystems.lookup import Tree
from pipeline.disk.filesystems.xfs import Xfs

EXT = frozenset({"ext2", "ext3", "ext4"})
READABLE = EXT | {"xfs"}
"""File systems that are looked into, and that a root may have."""
_UNSUPPORTED = (
    *("apfs", "bcache", "bcachefs", "btrfs", "cramfs", "erofs", "f2fs", "hfsplus", "jfs"),
    *("nilfs2", "reiser4", "reiserfs", "romfs", "squashfs", "ufs", "zfs_member"),
)
"""File systems that hold the roots of some systems, but are not read here."""
_REFUSED = {
    name: f"its file system is {name}, which is not supported as a root" for name in _UNSUPPORTED
} | {
    "crypto_LUKS": "it is encrypted (LUKS)",
    "BitLocker": "it is encrypted (BitLocker)",
    "linux_raid_member": "it is a member of a software RAID",
    "vdo": "it is a VDO volume (deduplicated blocks)",
    "DM_integrity": "it is a dm-integrity volume",
    "zfs_member": "it belongs to a ZFS pool, which is not supported as a root",
}
_LOOKED_INTO = READABLE | {"vfat"}
ESP = frozenset({"c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"})
"""Partition types of the EFI system partition, in GPT and MBR."""
XBOOTLDR = frozenset({"bc13c2ff-59e6-4262-a352-b275fd6f7172", "ea"})
"""Partition types of the extended boot loader partition (UAPI.1)."""
_KERNEL = re.compile(r"(vmlinuz|vmlinux|bzImage|linux)(-.*)?$")
WHOLE_DISK = "0"


@dataclass(frozen=True)
class Candidate:
    """A volume of the disk.

    name: what it is chosen by. place: the same for people. partition: for a partition. is_root
    and is_boot: by what it holds. refusal: why it cannot be extracted; "" if it can. size: its
    bytes, which a volume that cannot be read does not tell. mapper_uuid: device-mapper's of a
    logical volume.
    """

    name: str
    place: str
    volume: Volume
    superblock: Superblock | None
    partition: Partition | None = None
    is_root: bool = False
    is_boot: bool = False
    refusal: str = ""
    mapper_uuid: str = ""
    size: int = 0

    @property
    def filesystem(self) -> str:
        """Its type, or "" if it carries no known signature."""
        return self.superblock.type if self.superblock else ""

    def is_of(self, kinds: frozenset[str]) -> bool:
        """Whether it is a partition of one of these types."""
        return self.partition is not None and self.partition.kind.lower() in kinds

    def describe(self) -> str:
        """One line for people: name, type, label, size."""
        label = (
            f", labelled {self.superblock.label}"
            if self.superblock and self.superblock.label
            else ""
        )
        what = self.filesystem or "nothing known"
        why = f"; {self.refusal}" if self.refusal else ""
        return f"{self.name} ({what}{label}, {(self.volume.size or self.size) >> 20} MiB{why})"


@dataclass(frozen=True)
class Survey:
    """All volumes of a disk. damage: what could not be read. notes: what people should know."""

    candidates: tuple[Candidate, ...]
    damage: tuple[DiskError, ...] = ()
    notes: tuple[str, ...] = ()


def survey(disk: Source) -> Survey:
    """Look at every partition and logical volume.

    DiskError when the partition table itself is damaged; damage further in is listed.
    """
    table = read_table(disk)
    damage: list[DiskError] = []
    found, placed = _partitions(disk, table, damage)
    try:
        groups = read_groups(placed, disk)
    except DiskError as error:
        damage.append(error)
        groups = Groups((), ())
    found += _logical_volumes(disk, groups, damage)
    candidates = []
    for candidate in found:
        try:
            candidates.append(_inspected(candidate))
        except DiskError as error:
            damage.append(error)
            # What a journal has yet to repair says nothing about the file system.
            dirty = candidate.superblock is not None and candidate.superblock.dirty
            candidates.append(candidate if dirty else replace(candidate, refusal=error.why))
    return Survey(tuple(candidates), tuple(damage), (*table.notes, *groups.notes))


def _partitions(
    disk: Source, table: Table, damage: list[DiskError]
) -> tuple[list[Candidate], list[Placed]]:
    """What the partitions hold: file systems and physical volumes."""
    found: list[Candidate] = []
    placed: list[Placed] = []
    whole = Volume(disk, (Stretch(0, disk.size),), disk.name)
    places: list[tuple[str, Partition | None, Volume]] = [
        (str(partition.number), partition, partition.volume(disk)) for partition in table.partitions
    ]
    for name, partition, volume in places or [(WHOLE_DISK, None, whole)]:
        try:
            there = Volume(disk, [_clip(s, disk.size) for s in volume.stretches], volume.name)
            physical = read_label(there)
            if physical and not (partition and partition.refusal):
                placed.append(Placed(physical, volume.stretches[0], name))
                continue
            superblock = recognise(there)
        except DiskError as error:
            damage.append(error)
            continue
        found.append(
            Candidate(
                name,
                _place(name),
                volume,
                superblock,
                partition,
                refusal=_doubt(table, partition, superblock),
            )
        )
    return found, placed


def _doubt(table: Table, partition: Partition | None, superblock: Superblock | None) -> str:
    """Why the tables forbid to take a volume; "" if they do not."""
    if partition is not None:
        return partition.refusal
    if table.foreign and superblock is None:
        return f"it has a partition table of {table.foreign}, which is not read"
    return ""


def _place(name: str) -> str:
    return "the disk" if name == WHOLE_DISK else f"partition {name}"


def _logical_volumes(disk: Source, groups: Groups, damage: list[DiskError]) -> Iterator[Candidate]:
    for logical in groups.volumes:
        volume = logical.volume(disk)
        on = " and ".join(map(_place, logical.partitions))
        place = f"LV {logical.path}" + (f" on {on}" if on else "")
        try:
            superblock = None if logical.refusal or volume.missing else recognise(volume)
        except DiskError as error:
            damage.append(error)
            continue
        yield Candidate(
            logical.path,
            place,
            volume,
            superblock,
            refusal=logical.refusal,
            mapper_uuid=logical.uuid,
            size=logical.size,
        )


def _clip(stretch: Stretch, size: int) -> Stretch:
    start = min(stretch.start, size)
    return Stretch(start, min(stretch.end, size) - start)


def _inspected(candidate: Candidate) -> Candidate:
    """The candidate with what its content tells."""
    missing = candidate.volume.missing
    if missing and not candidate.refusal:
        return replace(
            candidate, refusal=f"the disk image lacks {missing} bytes of it: it is cut off"
        )
    refusal = candidate.refusal or _REFUSED.get(candidate.filesystem, "")
    if refusal or candidate.filesystem not in _LOOKED_INTO:
        return replace(candidate, refusal=refusal)
    tree = look_into(candidate.volume, candidate.filesystem)
    is_root = candidate.filesystem in READABLE and looks_like_root(tree)
    return replace(candidate, is_root=is_root, is_boot=looks_like_boot(tree))


def look_into(source: Source, filesystem: str) -> Tree:
    """A file system's content, by its reader. DiskError when it cannot be read."""
    if filesystem == "vfat":
        return Tree(Fat(source))
    return Tree(Xfs(source) if filesystem == "xfs" else Ext(source))


def looks_like_root(tree: Tree) -> bool:
    """Whether this is the top of an operating system: it can be told apart from /boot, /home,
    /usr and /var by holding settings and programs at once.
    """
    names = set(tree.names("/"))
    if not {"etc", "usr"} <= names or not names & {"bin", "sbin"}:
        return False
    settings = ("fstab", "os-release", "passwd", "inittab")
    return bool(set(tree.names("/etc")) & set(settings))


def looks_like_boot(tree: Tree) -> bool:
    """Whether this is the content of /boot: a kernel at its top."""
    return "etc" not in tree.names("/") and has_kernel(tree, "/")


def has_kernel(tree: Tree, directory: str) -> bool:
    """Whether a directory holds a kernel, by its name."""
    return any(_KERNEL.match(name) for name in tree.names(directory))


def listed(candidates: Iterable[Candidate]) -> str:
    """The candidates for a message."""
    return ", ".join(candidate.describe() for candidate in candidates) or "nothing"
